import { execFileSync } from "node:child_process";
import { X509Certificate } from "node:crypto";
import { writeFileSync } from "node:fs";
import { join } from "node:path";
import { describe, expect, it } from "vitest";
import { createAuthority, openAuthority } from "../../../src/engine/egress/intercept/authority.ts";
import { parseHost } from "../../../src/lib/host-name.ts";
import { tempDir } from "../support/temp-dir.ts";

const DAY_MS = 86_400_000;
const host = (text: string) => parseHost(text) ?? expect.fail(text);

describe("the engine's authority", () => {
  it("is believed by clocks that are a day early or late, for as long as a certificate is used", async () => {
    using dir = tempDir();
    let now = Date.now();
    const files = await createAuthority(now, "abc");
    const authority = await openAuthority(files, () => now);
    writeFileSync(join(dir.path, "ca.pem"), files.cert);
    const verify = (cert: string, at: number, name: string) => {
      writeFileSync(join(dir.path, "leaf.pem"), cert);
      const time = ["-attime", String(Math.floor(at / 1000))];
      const args = ["verify", "-x509_strict", "-CAfile", "ca.pem", ...time, ...name.split(" "), "leaf.pem"];
      return execFileSync("openssl", args, { cwd: dir.path, encoding: "utf8", stdio: "pipe" }).trim();
    };
    const first = await authority.identityOf(host("api.test"));
    for (const at of [now - DAY_MS, now, now + DAY_MS]) {
      expect(verify(first.cert, at, "-verify_hostname api.test")).toBe("leaf.pem: OK");
    }
    expect(() => verify(first.cert, now, "-verify_hostname other.test")).toThrow();
    expect(verify((await authority.identityOf(host("10.1.2.3"))).cert, now, "-verify_ip 10.1.2.3")).toContain(
      "OK",
    );
    expect(verify((await authority.identityOf(host("[fd00::1]"))).cert, now, "-verify_ip fd00::1")).toContain(
      "OK",
    );
    const long = `${"a".repeat(63)}.${"b".repeat(63)}.test`;
    expect(verify((await authority.identityOf(host(long))).cert, now, `-verify_hostname ${long}`)).toContain(
      "OK",
    );

    now += 1.9 * DAY_MS;
    expect((await authority.identityOf(host("api.test"))).cert).toBe(first.cert);
    expect(verify(first.cert, now + DAY_MS, "-verify_hostname api.test")).toContain("OK");
    now += DAY_MS;
    const second = await authority.identityOf(host("api.test"));
    expect(second.cert).not.toBe(first.cert);
    expect(verify(second.cert, now - DAY_MS, "-verify_hostname api.test")).toContain("OK");
    now -= 30 * DAY_MS;
    expect((await authority.identityOf(host("api.test"))).cert).not.toBe(second.cert);
  });

  it("makes certificates for servers only, and keeps the last of them", async () => {
    const files = await createAuthority(Date.now(), "abc");
    const authority = await openAuthority(files, Date.now);
    const ca = new X509Certificate(files.cert);
    const first = await authority.identityOf(host("host0.test"));
    const leaf = new X509Certificate(first.cert);
    expect([ca.ca, leaf.ca, leaf.keyUsage]).toEqual([true, false, ["1.3.6.1.5.5.7.3.1"]]);
    expect(leaf.publicKey.asymmetricKeyDetails).toMatchObject({ namedCurve: "prime256v1" });
    for (let i = 1; i <= 300; i++) await authority.identityOf(host(`host${i}.test`));
    expect((await authority.identityOf(host("host300.test"))).cert).toBe(
      (await authority.identityOf(host("host300.test"))).cert,
    );
    expect((await authority.identityOf(host("host0.test"))).cert).not.toBe(first.cert);
  });
});
