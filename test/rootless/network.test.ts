import { afterAll } from "vitest";
import { makeLab, openTun } from "../network/support/lab.ts";
import { reportInside } from "./support/inner.ts";
import { makeUser, prepareCgroups } from "./support/user.ts";

const user = makeUser();
const groups = await prepareCgroups(user);
const lab = await makeLab();
afterAll(async () => {
  user[Symbol.dispose]();
  groups[Symbol.dispose]();
  await lab.end();
});
openTun(lab);
await reportInside(user, ["network"], {
  where: lab.onHost,
  env: { WARREN_LAB: JSON.stringify(lab.places) },
});
