import { afterAll } from "vitest";
import { reportInside } from "./support/inner.ts";
import { makeUser } from "./support/user.ts";

const user = makeUser();
afterAll(() => user[Symbol.dispose]());
await reportInside(user, ["podman"], { timeoutMs: 600_000 });
