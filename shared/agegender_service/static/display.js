// How answers are written for people. agegender/display.py writes the same; a test compares the two.

// Halves go up.
export const whole = (value) => Math.floor(value + 0.5);

export function decimals(value, digits) {
  const factor = 10 ** digits;
  return (Math.floor(value * factor + 0.5) / factor).toFixed(digits);
}

export const years = (mean) => `${whole(mean)}`;

// Outwards, so that it holds what the exact interval holds.
export const interval = ([low, high]) => [Math.floor(low), Math.ceil(high)];

export const percent = (share) => `${whole(100 * share)} %`;

// No head is that certain, so nothing is rounded up to 100 %.
export const certainty = (share) => `${Math.min(99, whole(100 * share))} %`;

export const score = (value) => decimals(value, 2);

export function duration(seconds) {
  if (seconds < 90) return `${whole(seconds)} s`;
  return seconds < 5400 ? `${whole(seconds / 60)} min` : `${decimals(seconds / 3600, 1)} h`;
}
