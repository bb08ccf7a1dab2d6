import { randomBytes } from "node:crypto";
import { linkSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { WarrenError } from "../contracts/errors.ts";
import { noStep, type OnStep } from "../contracts/steps.ts";

const OWNER_ID = /^[a-z0-9]{8}$/;

/** The id that marks every host object of this state directory. Made once; callers at the same moment get the same. */
export function ownerIdOf(stateDir: string, onStep: OnStep = noStep): string {
  const path = join(stateDir, "owner");
  const existing = readOwner(path);
  if (existing !== undefined) {
    sweepDrafts(stateDir);
    return existing;
  }
  const draft = `${path}.${process.pid}.${randomBytes(4).toString("hex")}`;
  writeFileSync(draft, randomId(), { mode: 0o600, flag: "wx" });
  onStep("owner.drafted");
  try {
    // A link fails when the name exists, and it shows the whole file or none of it. A draft that is gone was swept by
    // somebody who has found the name.
    linkSync(draft, path);
    onStep("owner.named");
  } catch (error) {
    const { code } = error as NodeJS.ErrnoException;
    if (code !== "EEXIST" && code !== "ENOENT") {
      throw error;
    }
  } finally {
    rmSync(draft, { force: true });
  }
  sweepDrafts(stateDir);
  const id = readOwner(path);
  if (id === undefined) {
    throw new WarrenError("internal", `the owner id in ${path} vanished while it was read`);
  }
  return id;
}

/** Removes drafts of processes that were killed: they are of no use once there is an id. */
function sweepDrafts(stateDir: string): void {
  for (const name of readdirSync(stateDir)) {
    if (/^owner\.\d+\.[0-9a-f]{8}$/.test(name)) rmSync(join(stateDir, name), { force: true });
  }
}

function readOwner(path: string): string | undefined {
  let text: string;
  try {
    text = readFileSync(path, "utf8").trim();
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === "ENOENT") {
      return undefined;
    }
    throw error;
  }
  if (!OWNER_ID.test(text)) {
    throw new WarrenError("internal", `${path} does not hold an owner id`, {
      hint: "restore the file: what it held is the mark on every mount and cgroup of these sandboxes",
    });
  }
  return text;
}

function randomId(): string {
  const alphabet = "abcdefghijklmnopqrstuvwxyz0123456789";
  // 36 does not divide 256: bytes from 252 on would favour the first letters.
  const bytes = [...randomBytes(64)].filter((byte) => byte < 252).slice(0, 8);
  return bytes.map((byte) => alphabet[byte % 36]).join("");
}
