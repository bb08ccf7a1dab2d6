import { describe, expect, it } from "vitest";
import { WarrenError } from "../../../src/contracts/errors.ts";
import { lastWords } from "../../../src/lib/last-words.ts";
import { parseReference } from "../../../src/runtimes/common/images/reference.ts";

describe("image references", () => {
  const digest = `sha256:${"a".repeat(64)}`;
  const registry: [string, string, boolean][] = [
    ["debian", "docker.io/library/debian:latest", false],
    ["debian:12", "docker.io/library/debian:12", false],
    ["docker://debian:12", "docker.io/library/debian:12", false],
    ["grafana/loki", "docker.io/grafana/loki:latest", false],
    ["docker.io/debian", "docker.io/library/debian:latest", false],
    ["quay.io/a/b/c:v1", "quay.io/a/b/c:v1", false],
    [`ghcr.io/a/b@${digest}`, `ghcr.io/a/b@${digest}`, false],
    [`debian:12@${digest}`, `docker.io/library/debian@${digest}`, false],
    ["localhost/x", "localhost/x:latest", true],
    ["localhost:5000/x:1", "localhost:5000/x:1", true],
    ["127.0.0.1:5000/a/b", "127.0.0.1:5000/a/b:latest", true],
    ["[::1]:5000/x", "[::1]:5000/x:latest", true],
    ["10.0.0.1:5000/x", "10.0.0.1:5000/x:latest", false],
    ["localhost.evil.com/x", "localhost.evil.com/x:latest", false],
    ["127.0.0.1.evil.com/x", "127.0.0.1.evil.com/x:latest", false],
  ];
  it.each(registry)("%s is %s", (text, name, insecure) => {
    expect(parseReference(text)).toEqual({ kind: "registry", name, insecure });
  });

  it("may be paths", () => {
    expect(parseReference("host")).toEqual({ kind: "host" });
    expect(parseReference("/a b")).toEqual({ kind: "path", path: "/a b", expect: "any" });
    expect(parseReference("dir:/a")).toEqual({ kind: "path", path: "/a", expect: "directory" });
    expect(parseReference("tar:/a.tar")).toEqual({ kind: "path", path: "/a.tar", expect: "tar" });
    expect(parseReference("oci:/a/b:tag")).toEqual({ kind: "layout", path: "/a/b", tag: "tag" });
  });

  const bad = [
    "",
    "-x",
    "--help",
    "a b",
    "Debian",
    "a:b:c",
    "x@sha256:12",
    "../x",
    "dir:a",
    "tar:x",
    "oci:/a",
    "oci:/a:b:c",
  ];
  const worse = [
    "\0",
    "/a\0b",
    "a\nb",
    "http://x/y",
    "docker://",
    "user:pw@host/x",
    "a".repeat(5000),
    "x;id",
    "$(id)",
  ];
  it.each([...bad, ...worse])("%j is none", (text) => {
    expect(() => parseReference(text)).toThrow(WarrenError);
  });
});

describe("a tool's last words", () => {
  it("are its last line, or the message in it", () => {
    expect(lastWords(Buffer.from("one\ntwo\n\n"))).toBe("two");
    expect(lastWords(Buffer.from('time="x" level=fatal msg="reading \\"a\\": denied"\n'))).toBe(
      'reading "a": denied',
    );
    expect(lastWords(Buffer.from(""))).toBe("it said nothing");
  });

  it("hold no credentials and no control characters, and are short", () => {
    expect(lastWords(Buffer.from("GET https://me:secret@host/v2/?token=abc failed"))).toBe(
      "GET https://host/v2/?… failed",
    );
    expect(lastWords(Buffer.from("Authorization: Bearer abc.def"))).not.toContain("abc");
    expect(lastWords(Buffer.from("password=hunter2 x"))).not.toContain("hunter2");
    expect(lastWords(Buffer.from("a\x1b[31mred\x07"))).toBe("a [31mred ");
    expect(lastWords(Buffer.alloc(100_000, "x")).length).toBeLessThanOrEqual(400);
  });
});
