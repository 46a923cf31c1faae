/** Picture files as 8-bit RGB, upright, as nearly as a browser can to what `images.read_image` makes of them. */

import { Failure } from "../failure.js";

/** @import { Pixels } from "../model/preprocess.js" */

/**
 * Profiles of colours are ignored and EXIF's orientation is followed, as in Python; what is transparent becomes white.
 *
 * @param {Blob} picture
 * @returns {Promise<Pixels>}
 * @throws {Failure} the browser cannot read it
 */
export async function pixelsOf(picture) {
  const bitmap = await createImageBitmap(picture, {
    colorSpaceConversion: "none",
    imageOrientation: "from-image",
    premultiplyAlpha: "none",
  }).catch(() => null);
  if (!bitmap) throw new Failure("unreadable");
  const { width, height } = bitmap;
  const canvas = new OffscreenCanvas(width, height).getContext("2d", { willReadFrequently: true });
  if (!canvas) throw new Failure("unreadable");
  canvas.fillStyle = "white";
  canvas.fillRect(0, 0, width, height);
  canvas.drawImage(bitmap, 0, 0);
  bitmap.close();
  return { width, height, channels: 4, data: canvas.getImageData(0, 0, width, height).data };
}
