/** Waiting for work that may be done at once or take long. */

const FIRST = 200; // milliseconds

/**
 * A wait that takes twice as long each time.
 *
 * @param {number} most milliseconds
 * @returns {() => Promise<void>}
 */
export function patience(most) {
  let next = FIRST;
  return () => {
    const now = next;
    next = Math.min(most, 2 * next);
    return new Promise((resolve) => setTimeout(resolve, now));
  };
}
