import { CREDENTIALS_PORT } from "../../contracts/constants.ts";
import type { CredentialKind } from "../../contracts/credentials.ts";
import type { Core } from "../core.ts";
import type { Served, Service } from "../services/service.ts";
import { AWS_PATH, answerAws } from "./aws.ts";
import { createEndpoint } from "./endpoint.ts";
import { answerGcp } from "./gcp.ts";
import type { CredentialStore } from "./store.ts";

const PLACE = `127.0.0.1:${CREDENTIALS_PORT}`;

/** Cloud credentials for programs of sandboxes that have some, where SDKs look for those of a container or a virtual machine. */
export function createCredentialService(core: Core, store: CredentialStore): Service {
  return {
    name: "the credentials",
    number: 2,
    at: { port: CREDENTIALS_PORT },
    isWanted: ({ credentials }) => (credentials?.length ?? 0) > 0,
    environment: (record) => ({
      ...(has(record, "aws") ? awsEnvironment(store.token(record.id)) : {}),
      ...(has(record, "gcp") ? gcpEnvironment(record) : {}),
    }),
    open({ id }) {
      // Asked for at each request: what was replaced counts for the next one.
      const state = (kind: CredentialKind) => ({
        remedy: `warren credentials set ${id} ${kind}=…`,
        now: core.clock.now(),
      });
      return createEndpoint((asked) =>
        asked.path === AWS_PATH
          ? answerAws(asked, { credentials: store.get(id, "aws"), token: store.token(id), ...state("aws") })
          : answerGcp(asked, {
              isGiven: has(core.table.get(id), "gcp"),
              credentials: store.get(id, "gcp"),
              ...state("gcp"),
            }),
      );
    },
  };
}

function has(record: Pick<Served, "credentials"> | undefined, kind: CredentialKind): boolean {
  return record?.credentials?.some((one) => one.kind === kind) ?? false;
}

function awsEnvironment(token: string | undefined): Record<string, string> {
  return {
    AWS_CONTAINER_CREDENTIALS_FULL_URI: `http://${PLACE}${AWS_PATH}`,
    ...(token === undefined ? {} : { AWS_CONTAINER_AUTHORIZATION_TOKEN: token }),
  };
}

function gcpEnvironment({ credentials = [] }: Served): Record<string, string> {
  const project = credentials.find(({ kind }) => kind === "gcp")?.project;
  return {
    GCE_METADATA_HOST: PLACE,
    // The same for google-auth (Python) and gcloud, which look for the server by an address first.
    GCE_METADATA_IP: PLACE,
    GCE_METADATA_ROOT: PLACE,
    // google-auth-library (Node) need not find out.
    METADATA_SERVER_DETECTION: "assume-present",
    ...(project === undefined ? {} : { GOOGLE_CLOUD_PROJECT: project, CLOUDSDK_CORE_PROJECT: project }),
  };
}
