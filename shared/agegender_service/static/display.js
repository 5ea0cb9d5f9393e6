// Format answers for people. agegender/display.py formats them alike; a test compares the two.

// Round halves up.
export const whole = (value) => Math.floor(value + 0.5);

export function decimals(value, digits) {
  const factor = 10 ** digits;
  return (Math.floor(value * factor + 0.5) / factor).toFixed(digits);
}

export const years = (mean) => `${whole(mean)}`;

// Round outwards, so that the result contains the exact interval.
export const interval = ([low, high]) => [Math.floor(low), Math.ceil(high)];

export const percent = (share) => `${whole(100 * share)} %`;

// No head is that certain, so never round up to 100 %.
export const certainty = (share) => `${Math.min(99, whole(100 * share))} %`;

export const score = (value) => decimals(value, 2);

export function duration(seconds) {
  if (seconds < 90) return `${whole(seconds)} s`;
  return seconds < 5400 ? `${whole(seconds / 60)} min` : `${decimals(seconds / 3600, 1)} h`;
}
