import { timingSafeEqual } from "node:crypto";
import type { AwsCredentials } from "../../contracts/credentials.ts";
import { type Answer, type Asked, isOver, sayJson } from "./answer.ts";

/** Of the endpoint. */
export const AWS_PATH = "/aws";
/** When credentials that don't end, or don't say when, are asked for again: SDKs want a moment. */
const ASK_AGAIN_MS = 3_600_000;

export interface AwsState {
  credentials: AwsCredentials | undefined;
  token: string | undefined;
  /** How they are set, for whoever reads an error. */
  remedy: string;
  now: number;
}

/** As the container credentials provider of AWS's SDKs asks for them (AWS_CONTAINER_CREDENTIALS_FULL_URI). */
export function answerAws(asked: Asked, { credentials, token, remedy, now }: AwsState): Answer {
  if (token === undefined) return refuse(404, "NotFound", `the sandbox has no AWS credentials: ${remedy}`);
  if (!isToken(asked.headers.authorization, token)) {
    return refuse(401, "Unauthorized", "the Authorization header is not $AWS_CONTAINER_AUTHORIZATION_TOKEN");
  }
  if (!credentials) return refuse(404, "NotFound", `the sandbox's AWS credentials are lost: ${remedy}`);
  const { AccessKeyId, SecretAccessKey, SessionToken = "", Expiration } = credentials;
  if (isOver(Expiration, now)) {
    return refuse(403, "ExpiredToken", `the sandbox's AWS credentials ended at ${Expiration}: ${remedy}`);
  }
  const until = new Date(Expiration ?? now + ASK_AGAIN_MS).toISOString().replace(/\.\d+Z$/, "Z");
  return sayJson(200, { AccessKeyId, SecretAccessKey, Token: SessionToken, Expiration: until });
}

/** SDKs disagree on how these are spelled. */
function refuse(status: number, code: string, message: string): Answer {
  return sayJson(status, { code, message, Code: code, Message: message });
}

function isToken(given: string | undefined, token: string): boolean {
  const [one, other] = [Buffer.from(given ?? ""), Buffer.from(token)];
  return one.length === other.length && timingSafeEqual(one, other);
}
