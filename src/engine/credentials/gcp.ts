import type { GcpCredentials } from "../../contracts/credentials.ts";
import { type Answer, type Asked, isOver, sayJson } from "./answer.ts";

/** Clients look for these in the answer to know that it is Google's server. */
const headers = { "metadata-flavor": "Google", server: "Metadata Server for VM" };
const ROOT = "/computeMetadata/v1/";
const DEFAULT_SCOPE = "https://www.googleapis.com/auth/cloud-platform";
/** What is said of a token of unknown end: clients come again before that. */
const ASK_AGAIN_S = 600;

export interface GcpState {
  /** Whether the sandbox is to have some. */
  isGiven: boolean;
  credentials: Omit<GcpCredentials, "expires_in"> | undefined;
  /** How they are set, for whoever reads an error. */
  remedy: string;
  now: number;
}

/** As Google's metadata server answers, as far as its client libraries ask for who they are. */
export function answerGcp(asked: Asked, { isGiven, credentials, remedy, now }: GcpState): Answer {
  if (!isGiven) return sayText(404, `the sandbox has no credentials of Google Cloud: ${remedy}\n`);
  // Such a request was made by somebody else's doing, through a proxy or a page in a browser.
  if (asked.headers["x-forwarded-for"] !== undefined || asked.headers["metadata-flavor"] !== "Google") {
    return sayText(403, "Missing Metadata-Flavor:Google header, or X-Forwarded-For.\n");
  }
  const { account = "default", project, numeric_project, scopes = [DEFAULT_SCOPE] } = credentials ?? {};
  const self = { aliases: ["default"], email: account, scopes };
  const isRecursive = /^true$/i.test(asked.query.get("recursive") ?? "");
  const folder = (names: readonly string[], whole: unknown): Answer =>
    isRecursive ? sayJson(200, whole, headers) : sayText(200, `${names.join("\n")}\n`);
  const entry = (value: string | undefined): Answer =>
    value === undefined ? sayText(404, "not known of this sandbox\n") : sayText(200, value);

  const [, of = "", rest = ""] =
    /^instance\/service-accounts\/([^/]+)\/?(.*)$/.exec(below(asked.path) ?? "") ?? [];
  if (of !== "") {
    if (of !== "default" && of !== account) return sayText(404, "there is no such service account\n");
    switch (rest) {
      case "":
        return folder(["aliases", "email", "scopes", "token"], self);
      case "aliases":
        return entry("default");
      case "email":
        return entry(account);
      case "scopes":
        return entry(scopes.join("\n"));
      case "token":
        return token(credentials, remedy, now);
      default:
        return entry(undefined);
    }
  }
  switch (below(asked.path)?.replace(/\/$/, "")) {
    case undefined:
      return asked.path === "/" ? entry("computeMetadata/\n") : entry(undefined);
    case "":
      return entry("instance/\nproject/\nuniverse/\n");
    case "instance":
      return entry("service-accounts/\n");
    case "instance/service-accounts":
      return folder(["default/", `${account}/`], { default: self, [account]: self });
    case "project/project-id":
      return entry(project);
    case "project/numeric-project-id":
      return entry(numeric_project);
    case "universe/universe-domain":
    case "universe/universe_domain":
      return entry("googleapis.com");
    default:
      return entry(undefined);
  }
}

function token(credentials: GcpState["credentials"], remedy: string, now: number): Answer {
  if (!credentials) return sayText(404, `the sandbox's access token is lost: ${remedy}\n`);
  const { access_token, expires_at } = credentials;
  if (isOver(expires_at, now)) {
    return sayText(403, `the sandbox's access token ended at ${expires_at}: ${remedy}\n`);
  }
  const left = expires_at === undefined ? ASK_AGAIN_S : Math.floor((Date.parse(expires_at) - now) / 1000);
  return sayJson(200, { access_token, expires_in: left, token_type: "Bearer" }, headers);
}

/** The part of a path behind the root of all metadata. */
function below(path: string): string | undefined {
  return path === ROOT.slice(0, -1) ? "" : path.startsWith(ROOT) ? path.slice(ROOT.length) : undefined;
}

function sayText(status: number, body: string): Answer {
  return { status, headers: { ...headers, "content-type": "application/text" }, body };
}
