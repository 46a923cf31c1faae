/**
 * The words between the page and what computes for it: `clients/http.js` asks a server, `clients/local.js` a worker.
 * Boxes `box_xyxy` are in pixels of the upright picture, not clipped; `boxes_cxcywh` in fractions of the picture.
 *
 * @typedef {[number, number, number, number]} Box
 *
 * @typedef {object} Class
 * @property {number} label index 0..C-1
 * @property {string} name
 * @property {number|string|null} category_id as the training data wrote it; null: an index without a category
 *
 * @typedef {object} Model what is not known of an exported file, such as the number of layers, is null; then `can_look` is false
 * @property {string} name
 * @property {Class[]} classes
 * @property {number[]} thresholds one per class
 * @property {number} num_queries
 * @property {number} encoder_layers
 * @property {number} decoder_layers
 * @property {number} heads
 * @property {"softmax"|"focal"} scoring
 * @property {{class: number, l1: number, giou: number}} costs weights of the matching cost
 * @property {boolean} focus whether cross-attention has a prior at the query's box
 * @property {"learned"|"selected"|null} query_source
 * @property {number[]} strides of the maps in the memory, finest first
 * @property {Record<string, any>} preprocessing
 * @property {string} engine
 * @property {string} precision
 * @property {number|null} parameters
 * @property {Record<string, any>|null} certificate
 * @property {boolean} can_look whether `look` and `match` work; not on an engine without attention
 * @property {{name: string, splits: {name: string, pictures: number}[]}|null} data
 * @property {{checkpoints: any[]}|null} run
 * @property {string} version
 *
 * @typedef {object} Detection
 * @property {number} query
 * @property {number} label
 * @property {string} name
 * @property {number|string|null} category_id
 * @property {number} score 0..1
 * @property {Box} box_xyxy
 *
 * @typedef {object} Picture
 * @property {number} width
 * @property {number} height
 * @property {Detection[]} detections best first
 *
 * @typedef {object} Truth
 * @property {number} label
 * @property {Box} box_xyxy
 *
 * @typedef {object} Tensor
 * @property {number[]} shape
 * @property {Float32Array} data
 *
 * @typedef {object} Look
 * @property {number} width
 * @property {number} height
 * @property {[number, number]} extent width and height, in pixels of the picture, that the maps cover
 * @property {[number, number][]} memory_shapes height and width of the maps in the memory, finest first
 * @property {Record<string, Tensor>} tensors
 *
 * @typedef {object} HeatMap
 * @property {number} width in cells
 * @property {number} height
 * @property {Float32Array} data [height * width]
 *
 * @typedef {object} Candidate
 * @property {number} query
 * @property {number} class_cost
 * @property {number} l1_cost
 * @property {number} giou_cost
 * @property {number} cost their sum
 * @property {number} iou
 * @property {string} answer
 * @property {number} score
 *
 * @typedef {object} ObjectMatch
 * @property {string} name
 * @property {number} label
 * @property {Box} box_xyxy
 * @property {Candidate|null} taken_by
 * @property {Candidate[]} runners_up
 * @property {number|null} found_by
 * @property {string|null} reason
 * @property {Verdict} verdict
 *
 * @typedef {object} FalseAlarm
 * @property {number} query
 * @property {string} name
 * @property {number} score
 * @property {Box} box_xyxy
 * @property {string} kind
 * @property {Verdict} verdict
 *
 * @typedef {object} Verdict what became of an object or a detection: `verdict.CASE` of the words says it with the facts
 * @property {string} case
 * @property {Record<string, string>} facts
 *
 * @typedef {object} Matching
 * @property {number} width
 * @property {number} height
 * @property {ObjectMatch[]} objects
 * @property {FalseAlarm[]} false_alarms
 *
 * @typedef {import("./clients/data.js").DataClient} DataClient what `serve` knows of a data set and of a run
 *
 * @typedef {object} Engine what runs the model in the browser now
 * @property {string} name
 * @property {import("./model/agreement.js").Agreement} agreement of WASM with PyTorch, on the sample picture
 * @property {Trial|null} [trial] of WebGPU; null: the browser has none; nothing: not tried yet
 * @property {boolean} isLost whether WebGPU failed later
 *
 * @typedef {object} Trial
 * @property {string} name of the engine that is used from now on
 * @property {boolean} isUsed whether that is WebGPU
 * @property {import("./model/agreement.js").Agreement|null} agreement of WebGPU with WASM; null: it cannot run the model
 * @property {number[]} milliseconds that WASM and WebGPU take
 *
 * @typedef {object} Client
 * @property {() => Promise<Model>} model
 * @property {(picture: Blob, threshold?: number) => Promise<Picture>} detect without a threshold: all from score 0.05 on
 * @property {(picture: Blob, checkpoint?: string) => Promise<Look>} look
 * @property {(picture: Blob, truth: Truth[], threshold?: number) => Promise<Matching>} match
 * @property {DataClient} [data]
 * @property {() => Engine} [engine] where the browser runs the model, which `model` has started
 *
 * @typedef {object} OpenPicture
 * @property {Blob} blob as it was given
 * @property {string} name
 * @property {ImageBitmap} bitmap upright
 * @property {number} width
 * @property {number} height
 *
 * @typedef {(key: string, values?: Record<string, string|number>) => string} Word
 *
 * @typedef {object} Context what a view draws itself from
 * @property {Client} client
 * @property {Model} model
 * @property {import("./state.js").State} state
 * @property {Word} word a text in the reader's language
 * @property {(value: number, digits?: number) => string} number a number in the reader's language
 * @property {(text: string, isError?: boolean) => void} say one sentence in the status line, which screen readers read out
 * @property {<T>(work: () => Promise<T>) => Promise<T|undefined>} attempt the work's result; says what went wrong otherwise
 * @property {(blob: Blob, name: string, truth?: Truth[]) => Promise<OpenPicture|null>} open shows a picture and
 *     detects in it; null where it cannot be read, or another was opened meanwhile
 * @property {() => Promise<Look|undefined>} look inside the model at the picture, asked for once; says what went wrong
 * @property {(files: Iterable<File>) => Promise<void>} receive a picture, its labels or both, as they were dropped
 * @property {(view: string) => void} go
 *
 * @typedef {object} View
 * @property {string} name of its words (`view.NAME`) and in the address (`#NAME`)
 * @property {(place: HTMLElement, context: Context) => (() => void)|void} draw draws itself into an empty element;
 *     gives what to do before it is drawn anew or left
 * @property {(client: Client, model: Model) => boolean} [offered] whether it is listed; always without it
 */

export {};
