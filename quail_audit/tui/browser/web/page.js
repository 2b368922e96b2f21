// Where the page finds its app: beside the page itself, by whatever name and port the reader reaches it.
// textual.js reads this when the page has loaded.
document.addEventListener("DOMContentLoaded", () => {
  const socket = new URL("ws", location.href);
  socket.protocol = location.protocol === "https:" ? "wss:" : "ws:";
  socket.search = "";
  const size = Number(new URLSearchParams(location.search).get("fontsize"));
  const terminal = document.getElementById("terminal");
  terminal.dataset.sessionWebsocketUrl = socket.href;
  terminal.dataset.fontSize = size >= 6 && size <= 60 ? size : 16;
  // Keys go to the app as soon as there is one: textual.js then says so, and before that it cannot be told of the focus.
  new MutationObserver((_, observer) => {
    if (!document.body.classList.contains("-loaded")) return;
    observer.disconnect();
    document.querySelector(".xterm-helper-textarea").focus();
  }).observe(document.body, { attributeFilter: ["class"] });
  document.getElementById("again").addEventListener("click", () => location.reload());
});
