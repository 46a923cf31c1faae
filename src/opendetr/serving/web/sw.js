/**
 * Keeps the files of the exported folder, so that the page works without a network. `exported-files.js` names them, and a
 * version that changes with them: a browser that sees another one keeps the new files, then leaves the old ones. Where the
 * address hands out something else by now, this worker leaves with all that it has kept.
 */

const worker = /** @type {any} */ (self);
const LIST = "exported-files.js";
worker.importScripts(LIST);
const OURS = `opendetr ${worker.registration.scope} `; // an address may have several such folders
const CACHE = OURS + worker.exported.version;
const PATIENCE = 3000; // milliseconds for a network that is slower than none
// What threads need, from any server: those of `examples/serve_web_folder.py`.
const ISOLATING = { "Cross-Origin-Opener-Policy": "same-origin", "Cross-Origin-Embedder-Policy": "require-corp" };

worker.addEventListener("install", (/** @type {any} */ event) => {
  // Not from the browser's ordinary cache, which may still have the files of an earlier export.
  const files = worker.exported.files.map((/** @type {string} */ name) => new Request(name, { cache: "reload" }));
  event.waitUntil(caches.open(CACHE).then((cache) => cache.addAll(files)).then(() => worker.skipWaiting()));
});

worker.addEventListener("activate", (/** @type {any} */ event) => {
  event.waitUntil(forget((name) => name !== CACHE).then(() => worker.clients.claim()));
});

/** @param {(name: string) => boolean} which of the caches of this folder */
async function forget(which) {
  const names = (await caches.keys()).filter((name) => name.startsWith(OURS) && which(name));
  await Promise.all(names.map((name) => caches.delete(name)));
}

worker.addEventListener("fetch", (/** @type {any} */ event) => {
  if (event.request.method === "GET" && event.request.url.startsWith(worker.registration.scope)) {
    event.respondWith(answer(event.request));
  }
});

/** @param {Request} request */
async function answer(request) {
  if (!(await caches.has(CACHE))) return fetch(request, { cache: "no-cache" }); // this worker has left, see below
  if (request.mode === "navigate" && (await isAnothers())) {
    await forget(() => true);
    await worker.registration.unregister();
    return fetch(request, { cache: "reload" }); // not what the browser's ordinary cache has of the export
  }
  const kept = await caches.match(request, { cacheName: CACHE, ignoreSearch: true });
  if (kept) return isolated(kept);
  const found = await fetch(request);
  // Parts of the runtime that only some browsers need, such as WebGPU's.
  if (found.ok && request.url.includes("/node_modules/")) await (await caches.open(CACHE)).put(request, found.clone());
  return isolated(found);
}

/** Whether a server answers, and has no exported folder. A newer export has: it is taken as soon as all of it is kept. */
async function isAnothers() {
  try {
    const found = await fetch(LIST, { cache: "no-store", signal: AbortSignal.timeout(PATIENCE) });
    return found.status < 500 && !(found.ok && (await found.text()).startsWith("self.exported = "));
  } catch {
    return false; // no network
  }
}

/** The same with the headers that threads need. @param {Response} found */
function isolated(found) {
  if (found.status === 0 || found.redirected) return found; // which cannot be changed
  const headers = new Headers(found.headers);
  for (const [name, value] of Object.entries(ISOLATING)) headers.set(name, value);
  const body = [204, 205, 304].includes(found.status) ? null : found.body;
  return new Response(body, { status: found.status, statusText: found.statusText, headers });
}
