import { afterAll } from "vitest";
import { reportInside } from "./support/inner.ts";
import { makeUser } from "./support/user.ts";

const user = makeUser();
afterAll(() => user[Symbol.dispose]());

const suites = ["privileges", "kernel-files", "descriptors"].map((name) => `test/hostile/${name}`);
await reportInside(user, suites, {
  // What shows the attack succeeding without the guard needs root for it, and one looks at the ids that root's engine gives.
  onlyRoot: [
    "leads out without the guard",
    "unreadable gives something without the guard",
    "read-only can be opened for writing without the guard",
    "no file of /proc or /sys at all opens for writing, a process's own apart",
    "without the guard a container has every capability, may gain privileges and has no filter",
    "root inside is nobody outside: its ids lie in a range of its own",
    "a set-user-id program gives a user inside nothing",
    "TIOCLINUX and TIOCCONS reach no console",
  ],
});
