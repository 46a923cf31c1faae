/** The page's texts in English; words/zh.js has the same keys. */

/** @type {Record<string, string>} */
export const words = {
  "frame.skip": "Skip to the content",
  "frame.views": "Views",
  "frame.language": "Language",
  "frame.light": "Light",
  "frame.dark": "Dark",

  "view.detect": "Detect",
  "view.detect.what": "What the model finds in a picture",

  "about.open": "About",
  "about.title": "The model",
  "about.model": "Model",
  "about.classes": "Classes",
  "about.parameters": "Parameters",
  "about.queries": "Object queries",
  "about.learned": "learned",
  "about.selected": "selected in each picture",
  "about.layers": "Layers of encoder and decoder",
  "about.engine": "Engine and precision",
  "about.version": "opendetr",
  "about.close": "Close",

  "key.title": "API key",
  "key.label": "This server asks for its API key:",
  "key.use": "Use it",
  "key.cancel": "Cancel",

  "server.gone": "The server does not answer; this page goes on as soon as it is back.",
  "server.back": "The server is back.",
  "server.busy": "The server's queue is full; asking again ({number} of {of}).",
  "server.restarting": "The server's model is starting again; asking again ({number} of {of}).",

  "error.picture": "{name} is not a picture that this browser can read; use a JPEG, PNG or WebP file.",
  "error.not_picture": "The server cannot read this picture; use a JPEG, PNG or WebP file.",
  "error.too_large": "This picture is larger than the server takes; make it smaller.",
  "error.full": "The server's queue stayed full; try again in a moment.",
  "error.restarting": "The server's model did not start again; look at the server's own messages.",
  "error.late": "The server did not finish in time; try again, or use a smaller picture.",
  "error.key": "The server needs its API key; reload the page to enter it.",
  "error.server": "The server answered {status}: {sentence}",
  "error.page": "Something in this page failed: {sentence}",

  "detect.drop": "Drop a picture anywhere, paste one, or choose a file.",
  "detect.choose": "Choose a picture",
  "detect.working": "Looking at {name} …",
  "detect.done": "{name}: {count} found.",
};
