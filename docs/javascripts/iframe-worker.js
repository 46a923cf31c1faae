// The search runs in a Worker, which browsers do not start for a page that is opened from the disk. There the worker's script
// runs in a hidden frame instead. The theme's worker looks for the name IFrameWorker and for the address of its own script.
if (location.protocol === "file:") {
  class FrameWorker extends EventTarget {
    constructor(address) {
      super();
      const frame = document.createElement("iframe");
      frame.hidden = true;
      document.body.append(frame);
      this.inside = frame.contentWindow;
      this.inside.postMessage = (data) => this.dispatchEvent(new MessageEvent("message", { data }));
      this.inside.importScripts = (...addresses) =>
        addresses.reduce((before, each) => before.then(() => this.run(each)), Promise.resolve());
      this.inside.document.open();
      this.inside.document.write("<!doctype html><body></body>");
      this.inside.document.close();
      this.isReady = this.run(address);
    }

    run(address) {
      return new Promise((isLoaded, isMissing) => {
        const script = this.inside.document.createElement("script");
        script.onload = isLoaded;
        script.onerror = isMissing;
        script.src = address;
        this.inside.document.body.append(script);
      });
    }

    postMessage(data) {
      this.isReady.then(() => this.inside.dispatchEvent(new this.inside.MessageEvent("message", { data })));
    }

    terminate() {
      this.inside.frameElement.remove();
    }
  }
  window.Worker = window.IFrameWorker = FrameWorker;
}
