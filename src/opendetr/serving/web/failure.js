/** Something that the reader can understand and act on: the words `error.KIND`, filled with values. */
export class Failure extends Error {
  /** @param {string} kind @param {Record<string, string|number>} [values] */
  constructor(kind, values = {}) {
    super(kind);
    this.kind = kind;
    this.values = values;
  }
}
