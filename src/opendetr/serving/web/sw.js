/**
 * Keeps the files of the exported folder, so that the page works without a network. `exported-files.js` names them, and a
 * version that changes with them: a browser that sees another one keeps the new files, then leaves the old ones.
 */

const worker = /** @type {any} */ (self);
worker.importScripts("exported-files.js");
const OURS = `opendetr ${worker.registration.scope} `; // an address may have several such folders
const CACHE = OURS + worker.exported.version;

worker.addEventListener("install", (/** @type {any} */ event) => {
  // Not from the browser's ordinary cache, which may still have the files of an earlier export.
  const files = worker.exported.files.map((/** @type {string} */ name) => new Request(name, { cache: "reload" }));
  event.waitUntil(caches.open(CACHE).then((cache) => cache.addAll(files)).then(() => worker.skipWaiting()));
});

worker.addEventListener("activate", (/** @type {any} */ event) => {
  event.waitUntil(forgetOthers().then(() => worker.clients.claim()));
});

async function forgetOthers() {
  const others = (await caches.keys()).filter((name) => name.startsWith(OURS) && name !== CACHE);
  await Promise.all(others.map((name) => caches.delete(name)));
}

worker.addEventListener("fetch", (/** @type {any} */ event) => {
  if (event.request.method === "GET" && event.request.url.startsWith(worker.registration.scope)) {
    event.respondWith(answer(event.request));
  }
});

/** @param {Request} request */
async function answer(request) {
  const cache = await caches.open(CACHE);
  const kept = await cache.match(request, { ignoreSearch: true });
  if (kept) return kept;
  const found = await fetch(request);
  // Parts of the runtime that only some browsers need, such as WebGPU's.
  if (found.ok && request.url.includes("/node_modules/")) await cache.put(request, found.clone());
  return found;
}
