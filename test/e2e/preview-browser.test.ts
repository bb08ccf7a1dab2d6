import { once } from "node:events";
import { existsSync, mkdtempSync, rmSync } from "node:fs";
import { createServer, type IncomingMessage } from "node:http";
import type { AddressInfo } from "node:net";
import { tmpdir } from "node:os";
import { join, resolve } from "node:path";
import { type BrowserContext, chromium, type Page } from "playwright-core";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import type { PreviewLink } from "../../src/contracts/ports.ts";
import { serve } from "../cli/serving.ts";
import { openWorkspace } from "../cli/workspace.ts";

const CHROMIUM = "/usr/bin/chromium";
const PORT = 3000;
const OTHER_PORT = 3001;

/** Of what it does by itself, nothing leaves this machine. */
const flags = [
  ...["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--no-proxy-server"],
  ...["--disable-background-networking", "--disable-component-update", "--disable-sync"],
  "--host-resolver-rules=MAP *.preview.test 127.0.0.1, MAP * ~NOTFOUND, EXCLUDE *.localhost, EXCLUDE localhost, EXCLUDE 127.0.0.1",
];

/** Tries what a page can do with another's server, and tells what came of it. */
const everyWay = `async (origin) => {
  const said = {};
  const loaded = (element) => new Promise((resolve, reject) => {
    element.onload = () => resolve("loaded");
    element.onerror = () => reject(new Error("no"));
    document.body.append(element);
  });
  const opened = (target, event) => new Promise((resolve, reject) => {
    target.addEventListener(event, () => { target.close(); resolve("opened"); });
    target.addEventListener("error", () => { target.close(); reject(new Error("no")); });
  });
  const attempt = async (name, body) => {
    said[name] = await body().then(String, (error) => "failed: " + error.name);
  };
  const url = (path) => origin + path;
  await attempt("fetch", async () => (await fetch(url("/private.json"), { credentials: "include" })).text());
  await attempt("blind post", async () => {
    const options = { method: "POST", body: "x", mode: "no-cors", credentials: "include" };
    const { type } = await fetch(url("/echo?blind"), options);
    return type === "basic" ? "answered" : Promise.reject(new Error("no"));
  });
  await attempt("script", () => loaded(Object.assign(document.createElement("script"), { src: url("/library.js") })));
  await attempt("image", () => loaded(Object.assign(document.createElement("img"), { src: url("/image.svg") })));
  await attempt("frame", async () => {
    const frame = Object.assign(document.createElement("iframe"), { src: url("/private.json") });
    await loaded(frame);
    return frame.contentDocument.body.textContent;
  });
  await attempt("window", async () => {
    const other = window.open(url("/private.json"));
    for (let i = 0; i < 1000; i++) {
      await new Promise((resolve) => setTimeout(resolve, 20));
      if (other.location.href !== "about:blank" && other.document.body?.textContent) break;
    }
    const text = other.document.body.textContent;
    other.close();
    return text;
  });
  await attempt("socket", () => opened(new WebSocket(url("/socket").replace("http", "ws")), "open"));
  await attempt("events", () => opened(new EventSource(url("/events"), { withCredentials: true }), "news"));
  await attempt("cookie", async () => {
    document.cookie = "planted=yes; Path=/; Domain=localhost";
    return document.cookie.includes("planted") ? "planted" : Promise.reject(new Error("no"));
  });
  return said;
}`;

const why = existsSync(CHROMIUM) ? "" : " [not possible here: there is no Chromium]";

describe.skipIf(why !== "")(`a preview in a browser${why}`, () => {
  const box = openWorkspace({ WARREN_RUNTIME: "oci" });
  const profile = mkdtempSync(join(tmpdir(), "wchromium-"));
  let browser: BrowserContext;
  const visits: IncomingMessage[] = [];
  /** A server of another origin. */
  const elsewhere = createServer((request, response) => {
    visits.push(request);
    response.end("elsewhere");
  });

  const make = async (name: string) => {
    const mounts = [
      `${resolve("test/e2e/site")}:/site:ro`,
      `${resolve("node_modules/ws")}:/node_modules/ws:ro`,
    ];
    const options = ["--name", name, ...mounts.flatMap((mount) => ["-v", mount])];
    const ports = [PORT, OTHER_PORT].map(String);
    await box.ok(["create", ...options, "--", process.execPath, "/site/site.mjs", ...ports]);
  };
  const link = async (name: string, port = PORT): Promise<URL> =>
    new URL((await box.ok(["preview", name, String(port)])).trim());
  const open = async (url: URL | string): Promise<Page> => {
    const page = await browser.newPage();
    await page.goto(String(url));
    return page;
  };
  /** What the server inside was asked. */
  const seenBy = async (name: string): Promise<string[]> => {
    const ask = `fetch("http://127.0.0.1:${PORT}/seen").then((r) => r.text()).then(console.log)`;
    return JSON.parse(await box.ok(["exec", name, process.execPath, "-e", ask])) as string[];
  };

  beforeAll(async () => {
    elsewhere.listen(0, "127.0.0.1");
    await once(elsewhere, "listening");
    await Promise.all([make("one").then(() => make("two")), launch()]);
    async function launch() {
      browser = await chromium.launchPersistentContext(profile, {
        executablePath: CHROMIUM,
        headless: true,
        args: flags,
      });
    }
  });
  afterAll(async () => {
    await browser?.close();
    elsewhere.closeAllConnections();
    elsewhere.close();
    await box[Symbol.asyncDispose]();
    rmSync(profile, { recursive: true, force: true });
  });

  it("is the site as it is: style, scripts, cookies, fetch, events, a WebSocket, a form", async () => {
    const url = await link("one");
    const page = await open(url);
    expect(await page.evaluate("window.ready")).toEqual({
      fetched: "a body",
      event: "something new",
      message: "you said a message",
    });
    expect(await page.evaluate("getComputedStyle(document.querySelector('h1')).color")).toBe("rgb(1, 2, 3)");
    expect(await page.evaluate("document.querySelector('img').naturalWidth")).toBe(7);
    expect(await page.evaluate("window.hasModule")).toBe(true);
    // The secret is where neither a person nor a script sees it.
    expect(page.url()).toBe(`${url.origin}/`);
    expect(await page.evaluate("document.referrer")).toBe("");
    expect(await page.evaluate("document.cookie")).toBe("shown=yes; wide=yes");
    const cookies = await browser.cookies(url.origin);
    expect(cookies.find(({ name }) => name === "warren-preview")).toMatchObject({
      domain: url.hostname,
      httpOnly: true,
      sameSite: "Lax",
    });
    await page.getByRole("button", { name: "Send" }).click();
    await page.waitForURL("**/said*");
    expect(page.url()).toBe(`${url.origin}/said?word=h%C3%A4llo`);
    expect(await page.textContent("body")).toMatch(/shown=yes; hidden=yes; wide=yes$/);
    await page.goBack();
    expect(await page.textContent("h1")).toBe("A page from inside");
    const asked = (await seenBy("one")).join("\n");
    expect(asked).toContain("upgrade /socket");
    expect(asked).not.toContain("warren");
    // A page that tells nobody where it is says the Origin `null`.
    await page.goto(`${url.origin}/quiet`);
    const sent = `fetch("echo", { method: "POST", body: "quietly" }).then((answer) => answer.text())`;
    expect(await page.evaluate(sent)).toBe("quietly");
    await page.goto(url.origin);
    // Another server hears where the page was, and not how it was come by.
    await page.evaluate(`location.href = "http://127.0.0.1:${(elsewhere.address() as AddressInfo).port}/"`);
    await page.waitForURL("http://127.0.0.1:*/");
    expect(visits.map(({ headers }) => headers.referer)).toContain(`${url.origin}/`);
    expect(JSON.stringify(visits.map(({ headers }) => headers))).not.toContain("warren");
    await page.close();
  });

  it("keeps each port's pages to themselves", async () => {
    const [one, two] = [await link("one"), await link("two")];
    await apart(one, two);
    // Another port of one sandbox is another origin too.
    const [page, other] = [await open(two), await open(await link("two", OTHER_PORT))];
    await page.evaluate("localStorage.kept = 'mine'");
    expect(await other.evaluate("String(localStorage.kept)")).toBe("undefined");
    await Promise.all([page.close(), other.close()]);
  });

  it("keeps them so below a domain of one's own without TLS, where browsers don't say whose page asks", async () => {
    await using server = await serve(box, ["--preview-domain", "preview.test"]);
    const at = (name: string) => box.ok(["--server", server.line.url, "preview", name, String(PORT)]);
    const [one, two] = [new URL((await at("one")).trim()), new URL((await at("two")).trim())];
    expect(one.hostname).toMatch(/^3000-[a-z2-7]{16}\.preview\.test$/);
    await apart(one, two);
  });

  /** A page of the one can do nothing with the other, and all of it with its own server. */
  async function apart(one: URL, two: URL): Promise<void> {
    // The browser may go to both.
    await (await open(one)).close();
    const page = await open(two);
    const before = (await seenBy("one")).length;
    const said = (await page.evaluate(`(${everyWay})(${JSON.stringify(one.origin)})`)) as object;
    const failed = Object.keys(said).map((name) => [name, expect.stringMatching(/^failed: /)]);
    expect(said).toEqual(Object.fromEntries(failed));
    // Leading a browser there, as a link does, is all that a page of another origin can do. A frame stays empty.
    const reached = (await seenBy("one"))
      .slice(before)
      .filter((line) => !/^GET \/(seen|favicon\.ico) /.test(line));
    expect(reached).not.toEqual([]);
    for (const line of reached)
      expect(line).toMatch(/^GET \/private\.json .*"upgrade-insecure-requests":"1"/);
    // The same, of its own server.
    const own = (await page.evaluate(`(${everyWay})(${JSON.stringify(two.origin)})`)) as object;
    const { cookie, ...rest } = own as Record<string, string>;
    expect(cookie).toMatch(/^failed: /);
    expect(Object.entries(rest).filter(([, outcome]) => outcome.startsWith("failed"))).toEqual([]);
    await page.close();
  }

  it("tells a person what is wrong with a link", async () => {
    const url = await link("one", 4000);
    const page = await browser.newPage();
    const shown = async (address: string) => {
      const response = await page.goto(address);
      return `${response?.status()} ${(await page.textContent("body"))?.replaceAll(/\s+/g, " ")}`;
    };
    expect(await shown(`${url.origin}/`)).toMatch(/^401 this needs a link get one: warren preview \w+ 4000/);
    url.searchParams.set("warren_token", "wrong");
    expect(await shown(String(url))).toMatch(/^401 this link has expired, or is for something else get one/);
    expect(await shown(String(await link("one", 4000)))).toMatch(/^502 .*nothing listens/);
    await page.close();
  });

  it("is by path a page that is nobody's, and can ask the API for nothing", async () => {
    await using server = await serve(box);
    const { url, token } = JSON.parse(
      await box.ok(["preview", "one", String(PORT), "--json"]),
    ) as PreviewLink;
    const path = `/api/v1/sandboxes/one/preview/${PORT}/`;
    const page = await open(`${server.line.url}${path}?warren_token=${token}`);
    expect(page.url()).toBe(`${server.line.url}${path}`);
    expect(await page.textContent("h1")).toBe("A page from inside");
    expect(await page.evaluate("origin")).toBe("null");
    const read = `fetch("/api/v1/sandboxes").then((answer) => answer.text(), () => "refused")`;
    expect(await page.evaluate(read)).toBe("refused");
    // A page of the API's own origin could.
    await page.goto(`${server.line.url}/api/v1/health`);
    expect(await page.evaluate(read)).toContain('"name":"one"');
    // The listener for links has no such way in.
    expect((await page.goto(`http://127.0.0.1:${new URL(url).port}${path}`))?.status()).toBe(404);
    await page.close();
  });
});
