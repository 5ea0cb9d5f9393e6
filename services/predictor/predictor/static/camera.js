// The webcam. One frame is in flight; the next one is taken when its result has arrived.

const MAX_WIDTH = 960;

export class Camera {
  constructor(video) {
    this.video = video;
    this.stream = null;
  }

  get running() {
    return this.stream !== null;
  }

  async start() {
    if (!navigator.mediaDevices) {
      throw new Error("The browser allows webcams only on pages from localhost or https.");
    }
    try {
      this.stream = await navigator.mediaDevices.getUserMedia({
        video: { facingMode: "user", width: { ideal: 1280 } }, audio: false,
      });
    } catch (error) {
      throw new Error(error.name === "NotFoundError" ? "No webcam was found." : "Access to the webcam was denied. Allow it in the browser's settings.");
    }
    this.video.srcObject = this.stream;
    await this.video.play();
  }

  stop() {
    this.stream?.getTracks().forEach((track) => track.stop());
    this.stream = null;
    this.video.srcObject = null;
  }

  // Returns the current frame as a canvas, for crops of faces, and as JPEG.
  async frame() {
    const { videoWidth, videoHeight } = this.video;
    const scale = Math.min(1, MAX_WIDTH / videoWidth);
    const canvas = document.createElement("canvas");
    canvas.width = Math.round(videoWidth * scale);
    canvas.height = Math.round(videoHeight * scale);
    canvas.getContext("2d").drawImage(this.video, 0, 0, canvas.width, canvas.height);
    const jpeg = await new Promise((done) => canvas.toBlob(done, "image/jpeg", 0.85));
    return { canvas, jpeg };
  }
}
