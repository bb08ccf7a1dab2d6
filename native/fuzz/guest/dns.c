// Queries for names, by any program inside. An input is queries one after the other, each after its length in two bytes, to a
// name server that remembers few names.
#include <stdlib.h>
#include <string.h>

#include "../fuzz.h"

enum { FEW = 8 };
#define MOST_NAMES FEW
#include "../../guest/dns.c"

/// The name that a well-formed answer of our own begins with must be the question's, byte for byte.
static void check(const unsigned char *query, size_t bytes, const unsigned char *answer, size_t length) {
  fuzz_look_at(answer, length);
  if (length < HEADER || length > MAX_ANSWER) fuzz_finding("an answer of no length that answers have");
  if (memcmp(answer, query, 2) != 0 || (answer[2] & IS_ANSWER) == 0) fuzz_finding("an answer to something else");
  struct query q = {0};
  if (answer[5] == 0) return;
  unsigned code = take_query(query, bytes, &q);
  if (code == FORMAT_ERROR || code == NOT_IMPLEMENTED) fuzz_finding("what was not understood is repeated");
  if (length < HEADER + q.question_bytes || memcmp(answer + HEADER, query + HEADER, q.question_bytes) != 0)
    fuzz_finding("another question than was asked");
  if (answer[7] > 1 || (answer[7] == 1 && code != NO_ERROR)) fuzz_finding("an answer to a question that has none");
}

/// Each entry is in its bucket once, and in the order of use once.
static void check_table(void) {
  unsigned found = 0, used = 0;
  for (unsigned b = 0; b < BUCKETS; b++) {
    for (uint32_t at = table->buckets[b]; at != 0; at = table->entries[at - 1].next) {
      struct entry *e = &table->entries[at - 1];
      if (++found > table->count || bucket_of(e->name, e->bytes) != &table->buckets[b]) fuzz_finding("an entry out of place");
      if (strlen(e->name) != e->bytes || e->bytes == 0 || strspn(e->name, "abcdefghijklmnopqrstuvwxyz0123456789-_.") != e->bytes)
        fuzz_finding("a name that no host has");
      if (dns_name(NAMES_NETWORK + at - 1) != e->name) fuzz_finding("an address of another name");
    }
  }
  for (uint32_t n = table->newest; n != NONE; n = table->entries[n].older) {
    if (++used > table->count) fuzz_finding("an order of use without an end");
  }
  if (found != table->count || used != table->count || table->count > MOST_NAMES || table->changing)
    fuzz_finding("a table that is not whole");
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
  if (table == NULL && !dns_open()) abort();
  // As after having been killed: what was is forgotten.
  table->changing = true;
  dns_resume();
  while (size >= 2) {
    size_t bytes = (size_t)data[0] << 8 | data[1];
    data += 2;
    size -= 2;
    if (bytes > size) bytes = size;
    // In memory of their own length, so that reading beyond is seen.
    unsigned char *query = malloc(bytes + (bytes == 0)), *answer = malloc(MAX_ANSWER);
    if (query == NULL || answer == NULL) abort();
    memcpy(query, data, bytes);
    size_t length = dns_answer(query, bytes, answer);
    if (length > 0) check(query, bytes, answer, length);
    free(query);
    free(answer);
    data += bytes;
    size -= bytes;
  }
  check_table();
  return 0;
}
