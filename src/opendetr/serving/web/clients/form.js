/** A request that carries a picture. */

/** @param {Blob} picture @param {Record<string, string>} [fields] */
export function form(picture, fields = {}) {
  const body = new FormData();
  body.append("images", picture, "picture"); // its name is nobody's business
  for (const [name, value] of Object.entries(fields)) body.append(name, value);
  return { method: "POST", body };
}
