// openPage makes this process look like a page.
export function openPage(t) {
  const window = new EventTarget();
  globalThis.addEventListener = (...args) => window.addEventListener(...args);
  globalThis.document = Object.assign(new EventTarget(), { visibilityState: "visible" });
  t.after(() => {
    delete globalThis.addEventListener;
    delete globalThis.document;
  });
  const tell = (type, persisted) => window.dispatchEvent(Object.assign(new Event(type), { persisted }));
  const show = (visibilityState) => {
    document.visibilityState = visibilityState;
    document.dispatchEvent(new Event("visibilitychange"));
  };
  return {
    show,
    online: () => tell("online"),
    // leave and comeBack are as with a link and the back button, in a browser that doesn't tell of a freeze.
    leave(kept = true) {
      tell("pagehide", kept);
      show("hidden");
    },
    comeBack() {
      tell("pageshow", true);
      show("visible");
    },
    freeze: () => document.dispatchEvent(new Event("freeze")),
    resume: () => document.dispatchEvent(new Event("resume")),
  };
}

// catching collects what is reported as uncaught.
export function catching(t) {
  const uncaught = [];
  const microtask = globalThis.queueMicrotask;
  t.mock.method(globalThis, "queueMicrotask", (task) =>
    microtask(() => {
      try {
        task();
      } catch (error) {
        uncaught.push(error.message);
      }
    }),
  );
  return uncaught;
}
