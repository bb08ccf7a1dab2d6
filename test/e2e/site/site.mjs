// Run inside of a sandbox by preview-browser.test.ts: a site with what sites have. argv: ports, each of them the same.
import http from "node:http";
import { WebSocketServer } from "ws";

/** Headers and URLs of all requests, as text. */
const seen = [];

const page = `<!doctype html>
<html lang="en">
<title>inside</title>
<link rel="icon" href="data:,">
<link rel="stylesheet" href="style.css">
<h1>A page from inside</h1>
<form method="post" action="form"><input name="word" value="hällo"><button>Send</button></form>
<img id="image" src="image.svg" alt="">
<script src="app.js"></script>
<script type="module" src="module.js"></script>
`;
const app = `
const first = (target, event) => new Promise((resolve, reject) => {
  target.addEventListener(event, resolve, { once: true });
  target.addEventListener("error", () => reject(new Error(event)), { once: true });
});
async function everything() {
  const sent = await fetch("echo", { method: "POST", body: "a body" });
  const events = new EventSource("events");
  const event = await first(events, "news");
  events.close();
  const socket = new WebSocket(new URL("socket", location.href.replace(/^http/, "ws")));
  await first(socket, "open");
  socket.send("a message");
  const message = await first(socket, "message");
  socket.close();
  return { fetched: await sent.text(), event: event.data, message: message.data };
}
window.ready = everything().catch((error) => ({ error: String(error) }));
`;
const files = {
  "/": ["text/html; charset=utf-8", page],
  "/style.css": ["text/css", "h1 { color: rgb(1, 2, 3) }"],
  "/app.js": ["text/javascript", app],
  "/module.js": ["text/javascript", "window.hasModule = true;"],
  "/quiet": ["text/html", "<title>quiet</title>"],
  "/library.js": ["text/javascript", ""],
  "/image.svg": ["image/svg+xml", '<svg xmlns="http://www.w3.org/2000/svg" width="7" height="7"/>'],
  "/private.json": ["application/json", '{"private":"only for this origin"}'],
};

async function answer(request, response) {
  seen.push(`${request.method} ${request.url} ${JSON.stringify(request.headers)}`);
  const { pathname } = new URL(request.url, "http://inside");
  if (pathname === "/seen") return response.end(JSON.stringify(seen));
  if (pathname === "/events") {
    response.setHeader("content-type", "text/event-stream");
    response.write("event: news\ndata: something new\n\n");
    return;
  }
  if (pathname === "/echo" || pathname === "/form") {
    let body = "";
    for await (const chunk of request) body += chunk;
    if (pathname === "/echo") return response.end(body);
    response.writeHead(303, { location: `/said?${body}` });
    return response.end();
  }
  if (pathname === "/said") return response.end(`said: ${request.url} ${request.headers.cookie ?? ""}`);
  const [type, text] = files[pathname] ?? ["text/plain", undefined];
  response.statusCode = text === undefined ? 404 : 200;
  response.setHeader("content-type", type);
  if (pathname === "/quiet") response.setHeader("referrer-policy", "no-referrer");
  if (pathname === "/") {
    response.setHeader("set-cookie", [
      "shown=yes; Path=/; SameSite=Lax",
      "hidden=yes; Path=/; HttpOnly",
      "wide=yes; Path=/; Domain=localhost",
    ]);
  }
  response.end(text ?? "nothing here");
}

for (const port of process.argv.slice(2)) {
  const server = http.createServer((request, response) => void answer(request, response));
  new WebSocketServer({ server }).on("connection", (socket, request) => {
    seen.push(`upgrade ${request.url} ${JSON.stringify(request.headers)}`);
    socket.on("message", (data) => socket.send(`you said ${data}`));
  });
  server.listen(Number(port), "127.0.0.1");
}
