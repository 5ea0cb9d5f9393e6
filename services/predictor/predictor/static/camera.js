// The webcam, or a video file. One frame is in flight; the next one is taken when its result has arrived.

const MAX_WIDTH = 960;
const EVERY = 0.4; // seconds between two frames of a file

const release = (stream) => stream.getTracks().forEach((track) => track.stop());

export class Camera {
  #began = 0;
  #changes = 0; // starts and stops; a webcam that arrives after the next one is released

  constructor(video) {
    this.video = video;
    this.stream = null;
    this.file = null;
  }

  get running() {
    return this.stream !== null || this.file !== null;
  }

  // Seconds of the video, or since the webcam was started.
  get seconds() {
    return this.file ? this.video.currentTime : (performance.now() - this.#began) / 1000;
  }

  // Start the webcam. Returns false if `start`, `open` or `stop` was called before it was there.
  async start() {
    if (!navigator.mediaDevices) {
      throw new Error("The browser allows webcams only on pages from localhost or https.");
    }
    this.stop();
    const mine = this.#changes;
    try {
      const stream = await navigator.mediaDevices.getUserMedia({
        video: { facingMode: "user", width: { ideal: 1280 } }, audio: false,
      });
      if (mine !== this.#changes) {
        release(stream);
        return false;
      }
      this.stream = stream;
      this.#began = performance.now();
      this.video.srcObject = stream;
      await this.video.play();
    } catch (error) {
      if (mine !== this.#changes) return false;
      this.stop();
      throw new Error(error.name === "NotFoundError" ? "No webcam was found." : "Access to the webcam was denied. Allow it in the browser's settings.");
    }
    return mine === this.#changes;
  }

  // Open a video file. The browser reads it; only the frames are sent.
  async open(file) {
    this.stop();
    this.file = file;
    if (this.url) URL.revokeObjectURL(this.url);
    this.url = URL.createObjectURL(file);
    const opened = new Promise((done, fail) => {
      this.video.onloadeddata = done;
      this.video.onerror = () => fail(new Error(
        `The browser cannot play ${file.name}. The command "agegender video" reads more formats.`));
    });
    this.video.src = this.url;
    await opened;
    if (!this.video.videoWidth) throw new Error(`${file.name} has sound, but no moving pictures.`);
    await this.#seek(0); // until then, Chromium draws the first frame black
  }

  // Move a file on to its next frame. Returns whether there is one.
  async advance() {
    const before = this.video.currentTime;
    if (before + EVERY > this.video.duration) return false;
    await this.#seek(before + EVERY);
    return this.running && this.video.currentTime > before + EVERY / 4;
  }

  async #seek(seconds) {
    const moved = new Promise((done) => { this.video.onseeked = done; });
    this.video.currentTime = seconds;
    await moved;
  }

  // Release the source. The last frame of a file stays until another source is opened.
  stop() {
    this.#changes += 1;
    if (this.stream) release(this.stream);
    if (this.stream) this.video.srcObject = null;
    this.stream = this.file = null;
    this.video.onerror = null;
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
