import { execFileSync } from "node:child_process";
import { chmodSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";

export interface Identity {
  certFile: string;
  keyFile: string;
  cert: string;
  key: string;
}

export interface Authority extends Disposable {
  dir: string;
  /** The CA's own certificate. */
  caFile: string;
  ca: string;
  /** A certificate for these names, such as `IP:127.0.0.1`, signed by the CA. */
  issue(name: string, subjects: string): Identity;
}

/** A certification authority in a folder of its own, made with openssl, until disposed. */
export function createAuthority(): Authority {
  const dir = mkdtempSync(join(tmpdir(), "warren-ca-"));
  const at = (name: string) => join(dir, name);
  const openssl = (...args: string[]) => execFileSync("openssl", args, { cwd: dir, stdio: "pipe" });
  const newKey = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"];
  openssl(
    "req",
    "-x509",
    ...newKey,
    "-keyout",
    "ca.key",
    "-out",
    "ca.crt",
    "-days",
    "2",
    "-subj",
    "/CN=test CA",
  );
  return {
    dir,
    caFile: at("ca.crt"),
    ca: readFileSync(at("ca.crt"), "utf8"),
    issue(name, subjects) {
      const [csr, crt, key, ext] = ["csr", "crt", "key", "ext"].map((end) => `${name}.${end}`) as [
        string,
        string,
        string,
        string,
      ];
      writeFileSync(at(ext), `subjectAltName=${subjects}\n`);
      openssl("req", ...newKey, "-keyout", key, "-out", csr, "-subj", `/CN=${name}`);
      openssl(
        ...["x509", "-req", "-in", csr, "-CA", "ca.crt", "-CAkey", "ca.key", "-CAcreateserial"],
        ...["-days", "2", "-extfile", ext, "-out", crt],
      );
      chmodSync(at(key), 0o600);
      return {
        certFile: at(crt),
        keyFile: at(key),
        cert: readFileSync(at(crt), "utf8"),
        key: readFileSync(at(key), "utf8"),
      };
    },
    [Symbol.dispose]: () => rmSync(dir, { recursive: true, force: true }),
  };
}
