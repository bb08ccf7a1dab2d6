import { afterAll } from "vitest";
import { reportInside } from "./support/inner.ts";
import { makeUser, prepareCgroups } from "./support/user.ts";

const user = makeUser();
const cgroups = await prepareCgroups(user);
afterAll(() => {
  cgroups[Symbol.dispose]();
  user[Symbol.dispose]();
});
await reportInside(user, ["conformance"]);
