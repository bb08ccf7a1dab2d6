// What the kernel tells of packets that a guard denies: its own messages, around headers that a program inside wrote. An input is
// messages one after the other, each after its length in two bytes.
#include <arpa/inet.h>
#include <stdlib.h>
#include <string.h>

#include "../fuzz.h"

#include "../../guest/denied.c"

// Calls with effects, which parsing has none of.
bool enter_network(pid_t pid, uint64_t start) { return pid > 0 && start > 0; }
int nft_look_up_chain(uint8_t family, const char *table, const char *chain) { return family == 0 || table == chain; }

/// So slow that a flow is forgotten within an input, and so fast that one is known.
uint64_t now_ns(void) {
  static uint64_t now;
  return now += 500000000;
}

static void check(const struct denial *d) {
  char to[INET6_ADDRSTRLEN];
  fuzz_look_at(d->to, sizeof d->to);
  fuzz_look_at_text(d->chain);
  fuzz_look_at_text(d->protocol);
  if (inet_ntop(d->is_ipv6 ? AF_INET6 : AF_INET, d->to, to, sizeof to) == NULL) fuzz_finding("an address that can't be told");
  if (d->port > 65535 || d->from > 65535) fuzz_finding("a port of no length that ports have");
  if (strcmp(d->protocol, "icmp") == 0 && d->port != 0) fuzz_finding("a port where there is none");
  is_known(d);
  if (!is_known(d)) fuzz_finding("what was told just now is not known");
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
  while (size >= 2) {
    size_t bytes = (size_t)data[0] << 8 | data[1];
    data += 2;
    size -= 2;
    if (bytes > size) bytes = size;
    // In memory of its own length, so that reading beyond is seen.
    unsigned char *message = malloc(bytes + (bytes == 0));
    if (message == NULL) abort();
    memcpy(message, data, bytes);
    struct denial d;
    if (parse_message(message, bytes, &d)) check(&d);
    free(message);
    data += bytes;
    size -= bytes;
  }
  return 0;
}
