import { Duplex } from "node:stream";
import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { WarrenError } from "../../../src/contracts/errors.ts";
import { internalKind } from "../../../src/engine/egress/addresses.ts";
import { readHello } from "../../../src/engine/egress/client-hello.ts";
import { sameAuthority } from "../../../src/engine/egress/http-target.ts";
import { compilePolicy } from "../../../src/engine/egress/policy.ts";
import { parseRule } from "../../../src/engine/egress/rules.ts";
import { readSocksRequest } from "../../../src/engine/egress/socks.ts";
import { readRequestLine } from "../../../src/engine/egress/tunnel.ts";
import { parseHost } from "../../../src/lib/host-name.ts";

const bytes = fc.uint8Array({ maxLength: 400 }).map((array) => Buffer.from(array));
/** Bytes that begin as a greeting does, so that a run gets further than the first of them. */
const almostHello = fc
  .tuple(fc.constantFrom(20, 21, 22, 23), fc.integer({ min: 0, max: 300 }), bytes)
  .map(([type, length, rest]) =>
    Buffer.concat([Buffer.from([type, 3, 1, length >> 8, length & 255, 1, 0, 0]), rest]),
  );
const almostText = fc
  .array(fc.constantFrom("GET", " ", "/", "HTTP/1.1", "\r", "\n", "\t", "\0", "x", ":", "\x80", "EHLO"), {
    maxLength: 30,
  })
  .map((parts) => Buffer.from(parts.join(""), "latin1"));
/** Host names as people and attackers write them. */
const hostText = fc.oneof(
  fc.string({ unit: "binary", maxLength: 80 }),
  fc
    .array(
      fc.constantFrom(
        "a",
        "ok",
        ".",
        "-",
        "_",
        "1",
        "0x7f",
        "127",
        "ü",
        "。",
        "０",
        "%",
        "[",
        "]",
        ":",
        "xn--",
        "@",
        "\0",
        "*",
      ),
      { maxLength: 12 },
    )
    .map((parts) => parts.join("")),
  fc.ipV4(),
  fc.ipV6(),
  fc.domain(),
);

describe("what is decided of a client's first bytes", () => {
  it("does not depend on how many have come, once it is decided", () => {
    fc.assert(
      fc.property(fc.oneof(bytes, almostHello), fc.nat(), (all, cut) => {
        const early = readHello(all.subarray(0, cut % (all.length + 1)));
        if (early.kind !== "more") expect(readHello(all)).toEqual(early);
        else expect(early.need).toBeGreaterThan(cut % (all.length + 1));
      }),
    );
    fc.assert(
      fc.property(fc.oneof(bytes, almostText), fc.nat(), (all, cut) => {
        const early = readRequestLine(all.subarray(0, cut % (all.length + 1)));
        if (early !== undefined) expect(readRequestLine(all)).toBe(early);
      }),
    );
  });
});

describe("hosts and rules", () => {
  it("come to one form, which stays what it is", () => {
    fc.assert(
      fc.property(hostText, (text) => {
        const host = parseHost(text);
        if (!host) return;
        const written = host.kind === "name" ? host.name : host.address;
        expect(parseHost(written)).toEqual(host);
        expect(written).toMatch(/^[\x21-\x7e]+$/);
        expect(parseHost(text.toUpperCase().toLowerCase())).toEqual(parseHost(text.toLowerCase()));
      }),
    );
  });

  it("throw nothing but what they say", () => {
    fc.assert(
      fc.property(
        fc.oneof(
          hostText,
          fc.tuple(hostText, hostText).map((two) => two.join(":")),
        ),
        (text) => {
          try {
            parseRule(text);
          } catch (error) {
            expect(error).toBeInstanceOf(WarrenError);
          }
          sameAuthority(text, { host: "ok.test" }, 80);
        },
      ),
    );
  });

  it("allow a name, and none that only looks like it", () => {
    fc.assert(
      fc.property(fc.domain(), fc.domain(), fc.integer({ min: 1, max: 65_535 }), (one, other, port) => {
        const policy = compilePolicy({ allow: [`${one}:${port}`, `*.below.${one}`], deny: [] });
        expect(policy.decide(one, port).allowed).toBe(true);
        expect(policy.decide(`${one}.`, port).allowed).toBe(true);
        for (const text of [`${one}.${other}`, `x${one}`, `x.${one}`, `below.${one}`, `${one}@${other}`]) {
          expect(policy.decide(text, port).allowed, text).toBe(false);
        }
        expect(policy.decide(one, (port % 65_535) + 1).allowed).toBe(false);
      }),
    );
  });

  it("take an address for what it carries", () => {
    fc.assert(
      fc.property(fc.ipV4(), (address) => {
        const [a = 0, b = 0, c = 0, d = 0] = address.split(".").map(Number);
        const hex = `${((a << 8) | b).toString(16)}:${((c << 8) | d).toString(16)}`;
        const shapes = [`::ffff:${hex}`, `64:ff9b::${hex}`, `2002:${hex}::1`];
        for (const shape of shapes) expect(internalKind(shape), shape).toBe(internalKind(address));
        const number = ((a << 24) | (b << 16) | (c << 8) | d) >>> 0;
        const ways = [
          String(number),
          `0x${number.toString(16)}`,
          `0${number.toString(8)}`,
          `${a}.${number & 0xffffff}`,
        ];
        for (const way of ways) expect(parseHost(way), way).toEqual({ kind: "address", address });
      }),
    );
  });
});

/** A client that says this in these pieces, and then ends. */
function client(all: Buffer, size: number): Duplex {
  let at = 0;
  return new Duplex({
    read() {
      const piece = all.subarray(at, at + size);
      at += size;
      this.push(piece.length > 0 ? piece : null);
    },
    write: (_chunk, _encoding, done) => done(),
  });
}

it("reads SOCKS from any bytes in any pieces, to the same end, and hangs at none", async () => {
  const request = fc
    .tuple(
      fc.uint8Array({ minLength: 1, maxLength: 3 }),
      fc.constantFrom(1, 2, 3),
      fc.constantFrom(1, 3, 4, 9),
      bytes,
    )
    .map(([methods, command, type, rest]) =>
      Buffer.concat([Buffer.from([5, methods.length + 1, 0, ...methods, 5, command, 0, type]), rest]),
    );
  await fc.assert(
    fc.asyncProperty(fc.oneof(bytes, request), fc.integer({ min: 1, max: 20 }), async (all, size) => {
      const whole = await readSocksRequest(client(all, all.length || 1));
      const pieces = await readSocksRequest(client(all, size));
      expect(pieces).toEqual(whole);
      if (whole) expect(whole.port).toBeLessThanOrEqual(65_535);
    }),
  );
});
