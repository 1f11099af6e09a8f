// Browsers start no Worker for a page that is opened as a file. There, a hidden frame runs the search instead.
if (location.protocol === "file:") {
  window.Worker = class {
    constructor(address) {
      this.queue = [];
      this.frame = document.createElement("iframe");
      this.frame.hidden = true;
      this.frame.srcdoc =
        "<script>self.postMessage = (data) => parent.postMessage({ search: data }, '*')<" +
        `/script><script src="${address}"><` + "/script>";
      this.receive = (event) => {
        if (event.source === this.frame.contentWindow && event.data.search && this.onmessage) {
          this.onmessage({ data: event.data.search });
        }
      };
      window.addEventListener("message", this.receive);
      this.frame.addEventListener("load", () => {
        const queue = this.queue;
        this.queue = null;
        queue.forEach((data) => this.postMessage(data));
      });
      document.body.append(this.frame);
    }

    postMessage(data) {
      if (this.queue) {
        this.queue.push(data);
      } else {
        // A copy, as a Worker receives: the page reads its query again, and the search changes the one it has.
        this.frame.contentWindow.dispatchEvent(new MessageEvent("message", { data: structuredClone(data) }));
      }
    }

    terminate() {
      window.removeEventListener("message", this.receive);
      this.frame.remove();
    }
  };
}
