import { X509Certificate } from "node:crypto";
import { readFileSync } from "node:fs";
import { WarrenError } from "../../contracts/errors.ts";

/** The certificates of a PEM file. Read by us because Node takes a file without any for an empty list. */
export function readCaFile(path: string): string {
  try {
    const text = readFileSync(path, "utf8");
    new X509Certificate(text);
    return text;
  } catch (cause) {
    throw new WarrenError("invalid_request", `the CA file ${path} can't be read or holds no certificate`, {
      cause,
      hint: "PEM is expected: text with -----BEGIN CERTIFICATE-----",
    });
  }
}
