import { connect } from "node:net";
import { afterAll, describe, expect, it } from "vitest";
import { parsePort, parsePublish } from "../../src/cli/publish.ts";
import { UsageError } from "../../src/cli/report.ts";
import { countingServer, exchange } from "../../src/testing/api-ports.ts";
import { quietPort } from "../../src/testing/ports.ts";
import { eventually } from "../../src/testing/wait.ts";
import { openWorkspace } from "./workspace.ts";

const box = openWorkspace();
afterAll(() => box[Symbol.asyncDispose]());

describe("a port on the command line", () => {
  it.each([
    ["80", { sandbox_port: 80, host_port: 0, protocol: "tcp" }],
    ["53/udp", { sandbox_port: 53, host_port: 0, protocol: "udp" }],
    ["8080:80", { sandbox_port: 80, host_port: 8080, protocol: "tcp" }],
    [":80", { sandbox_port: 80, host_port: 0, protocol: "tcp" }],
    ["0:80/TCP", { sandbox_port: 80, host_port: 0, protocol: "tcp" }],
    ["127.0.0.1:8080:80", { sandbox_port: 80, host_port: 8080, protocol: "tcp", address: "127.0.0.1" }],
    ["0.0.0.0::80", { sandbox_port: 80, host_port: 0, protocol: "tcp", address: "0.0.0.0" }],
    ["localhost:8080:80", { sandbox_port: 80, host_port: 8080, protocol: "tcp", address: "localhost" }],
    ["[::1]:8080:80/udp", { sandbox_port: 80, host_port: 8080, protocol: "udp", address: "::1" }],
    ["[::1]::80", { sandbox_port: 80, host_port: 0, protocol: "tcp", address: "::1" }],
  ])("%s is understood", (text, port) => {
    expect(parsePublish(text)).toEqual(port);
  });

  it.each([
    "",
    ":",
    "0",
    "65536",
    "8080:",
    "x:80",
    "8080:80/sctp",
    "1:2:3:4",
    "::1:8080:80",
    "[::1]:80:",
    "[]:1:80",
    "-1:80",
    "80/udp/tcp",
    "8080-8081:80",
  ])("%j is refused", (text) => {
    expect(() => parsePublish(text)).toThrow(UsageError);
  });

  it("is one inside where nothing is published", () => {
    expect(parsePort("53/udp")).toEqual({ sandboxPort: 53, protocol: "udp" });
    for (const text of ["8080:80", "0", "", "80/", "80/x/y"])
      expect(() => parsePort(text)).toThrow(UsageError);
  });
});

describe("warren port", () => {
  it("publishes, lists, links and takes back", async () => {
    const published = ["-p", `${await quietPort()}:8000`, "-p", "[::1]::8000"];
    const id = (await box.ok(["create", "--name", "web", ...published])).trim();
    await box.ok([
      "exec",
      "web",
      "sh",
      "-c",
      'perl -e "$1" 8000 >/dev/null 2>&1 </dev/null &',
      "sh",
      countingServer,
    ]);
    const ports = JSON.parse(await box.ok(["port", "ls", "web", "--json"]));
    expect(ports).toMatchObject([{ address: "127.0.0.1" }, { address: "::1" }]);
    const first = ports[0].host_port;
    await eventually("a server inside", async () => (await exchange(first, "ab")) === "2 AB");
    expect(await box.ok(["port", "ls", "web"])).toMatch(
      new RegExp(
        `^SANDBOX +HOST +STATE +WHY\\n8000/tcp +127.0.0.1:${first} +open\\n8000/tcp +\\[::1\\]:\\d+ +open\\n$`,
      ),
    );
    const added = await box.ok(["port", "add", "web", "5300/udp"]);
    expect(added).toMatch(/^127\.0\.0\.1:\d+\n$/);
    const { code, stderr } = await box.warren(["create", "-p", `${first}:80`]);
    expect(code).toBe(1);
    expect(stderr).toMatch(
      new RegExp(`tcp port ${first} of 127.0.0.1 belongs to sandbox web\\nhint: .*warren port rm web 8000`),
    );

    await box.ok(["exec", "web", "sh", "-c", 'perl -e "$1" >/dev/null 2>&1 </dev/null &', "sh", httpServer]);
    const url = new URL((await box.ok(["preview", "web", "8001"])).trim());
    expect(url.host).toMatch(new RegExp(`^8001-${id}\\.localhost:\\d+$`));
    const again = JSON.parse(await box.ok(["port", "url", "web", "8001", "--expires", "2h", "--json"]));
    expect(new URL(again.url).host).toBe(url.host);
    expect(Date.parse(again.expires_at) - Date.now()).toBeGreaterThan(7_100_000);
    const answer = await eventually("the server inside", async () => {
      const text = await ask(Number(url.port), url.host, url.pathname + url.search);
      return / 200 /.test(text) && text;
    });
    expect(answer).toMatch(/^HTTP\/1\.1 200 OK\r\n.*asked GET \/ HTTP\/1\.1$/s);
    expect(await ask(Number(url.port), url.host, "/")).toMatch(/^HTTP\/1\.1 401 /);
    expect(await ask(Number(url.port), `localhost:${url.port}`, "/api/v1/sandboxes")).toMatch(
      /^HTTP\/1\.1 404 /,
    );

    await box.ok(["port", "rm", "web", "8000", "5300/udp"]);
    expect(await box.ok(["port", "ls", "web"])).toBe("SANDBOX   HOST   STATE   WHY\n");
    expect(await exchange(first, "x")).toBe("ECONNREFUSED");
    const missing = await box.warren(["port", "rm", "web", "8000"]);
    expect([missing.code, missing.stderr]).toEqual([1, expect.stringContaining("is not published")]);
  });

  it("says where a port is reached that was chosen for a command, and what to write instead of what makes no sense", async () => {
    const { stderr } = await box.warren(["run", "-p", "8000", "-p", "53/udp", "--", "true"]);
    expect(stderr).toMatch(
      /^port 8000\/tcp is reached at 127\.0\.0\.1:\d+\nport 53\/udp is reached at 127\.0\.0\.1:\d+\n$/,
    );
    for (const [args, hint] of [
      [["preview", "web", "8080:80"], "name it alone, such as 80 or 53/udp, published or not"],
      [["port", "rm", "web", "http"], "name it alone, such as 80 or 53/udp, published or not"],
      [["preview", "web", "80", "--expires", "31d"], "write --expires 30d, or less"],
      [["preview", "web", "80", "--expires", "never"], "write --expires 30d, or less"],
      [["port", "add", "web"], "warren port add --help lists its options"],
      [["preview", "web"], "warren preview --help lists its options"],
    ] as const) {
      expect(await box.warren([...args])).toMatchObject({
        code: 2,
        stderr: expect.stringMatching(new RegExp(`^error: .*\\nhint:  ${hint}\\n$`)),
      });
    }
  });

  it("leaves no listener when the engine is killed, and the next one has its ports and links again", async () => {
    await box.ok(["create", "--name", "lasting", "-p", `${await quietPort()}:8000`]);
    await box.ok([
      "exec",
      "lasting",
      "sh",
      "-c",
      'perl -e "$1" 8000 >/dev/null 2>&1 </dev/null &',
      "sh",
      countingServer,
    ]);
    await box.ok([
      "exec",
      "lasting",
      "sh",
      "-c",
      'perl -e "$1" >/dev/null 2>&1 </dev/null &',
      "sh",
      httpServer,
    ]);
    const [port] = JSON.parse(await box.ok(["port", "ls", "lasting", "--json"]));
    await eventually("a server inside", async () => (await exchange(port.host_port, "ab")) === "2 AB");
    const url = new URL((await box.ok(["preview", "lasting", "8001"])).trim());
    const pid = box.enginePid() ?? 0;
    process.kill(pid, "SIGKILL");
    for (const gone of [port.host_port, Number(url.port)]) {
      await eventually("the end of a listener", async () => (await exchange(gone, "x")) === "ECONNREFUSED");
    }
    expect(JSON.parse(await box.ok(["port", "ls", "lasting", "--json"]))).toEqual([port]);
    expect(await exchange(port.host_port, "hello")).toBe("5 HELLO");
    expect(await ask(Number(url.port), url.host, url.pathname + url.search)).toMatch(/ 200 /);
    await box.ok(["rm", "lasting"]);
    expect(await exchange(port.host_port, "x")).toBe("ECONNREFUSED");
  });

  it("says what is wrong with its command line", async () => {
    for (const args of [
      ["port"],
      ["port", "add", "web"],
      ["port", "add", "web", "1:2:3:4"],
      ["preview", "web", "53/udp"],
      ["create", "-p", "x"],
    ]) {
      const { code } = await box.warren(args);
      expect(code, args.join(" ")).toBe(2);
    }
  });
});

/** Tells what it was asked. */
const httpServer = `use IO::Socket::INET;
my $s = IO::Socket::INET->new(LocalAddr => "127.0.0.1", LocalPort => 8001, Listen => 9, ReuseAddr => 1) or die;
while (my $c = $s->accept) {
  my $first = <$c>; $first =~ s/\\s+$//; while (<$c>) { last if /^\\r?\\n$/ }
  print $c "HTTP/1.1 200 OK\\r\\nContent-Length: " . (6 + length $first) . "\\r\\n\\r\\nasked $first"; close $c;
}`;

function ask(port: number, host: string, path: string): Promise<string> {
  return new Promise((resolve, reject) => {
    const socket = connect(port, "127.0.0.1");
    let text = "";
    socket.on("data", (chunk) => {
      text += chunk;
    });
    socket.once("close", () => resolve(text)).once("error", reject);
    socket.write(`GET ${path} HTTP/1.1\r\nHost: ${host}\r\nConnection: close\r\n\r\n`);
  });
}
