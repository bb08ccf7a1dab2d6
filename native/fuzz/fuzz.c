#include "fuzz.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

static struct fuzz_input weather;
static uint64_t clock_ns;

jmp_buf fuzz_process[FUZZ_MOST_PROCESSES];
unsigned fuzz_depth;
int fuzz_exit_code;

struct fuzz_input fuzz_begin(const uint8_t *data, size_t size) {
  struct fuzz_input all = {data, size};
  size_t bytes = 0;
  if (all.left > 0) {
    bytes = *all.at++;
    all.left--;
  }
  if (bytes > all.left) bytes = all.left;
  weather = (struct fuzz_input){all.at, bytes};
  clock_ns = 1000000000;
  fuzz_depth = 0;
  return (struct fuzz_input){all.at + bytes, all.left - bytes};
}

unsigned fuzz_choose(unsigned count) {
  if (weather.left == 0) return 0;
  weather.left--;
  return *weather.at++ % count;
}

void fuzz_finding(const char *what) {
  fprintf(stderr, "finding: %s\n", what);
  abort();
}

void fuzz_look_at(const void *data, size_t bytes) {
  const volatile unsigned char *at = data;
  for (size_t i = 0; i < bytes; i++) (void)at[i];
}

void fuzz_look_at_text(const char *text) { fuzz_look_at(text, strlen(text)); }

void fuzz_look_at_list(char *const *list) {
  for (; *list != NULL; list++) fuzz_look_at_text(*list);
}

static struct {
  void **all;
  size_t count, room;
} memory;

static void *remember(void *p) {
  if (p == NULL) return NULL;
  if (memory.count == memory.room) {
    memory.room = memory.room * 2 + 1024;
    memory.all = realloc(memory.all, memory.room * sizeof *memory.all);
    if (memory.all == NULL) abort();
  }
  return memory.all[memory.count++] = p;
}

static void forget(const void *p) {
  for (size_t i = memory.count; i-- > 0;) {
    if (memory.all[i] != p) continue;
    memory.all[i] = memory.all[--memory.count];
    return;
  }
}

void *fuzz_malloc(size_t bytes) { return remember(malloc(bytes)); }
void *fuzz_calloc(size_t count, size_t bytes) { return remember(calloc(count, bytes)); }
char *fuzz_strdup(const char *text) { return remember(strdup(text)); }

void *fuzz_realloc(void *old, size_t bytes) {
  forget(old);
  return remember(realloc(old, bytes));
}

void fuzz_free(void *p) {
  forget(p);
  free(p);
}

void fuzz_free_all(void) {
  while (memory.count > 0) free(memory.all[--memory.count]);
}

// AddressSanitizer's list of what it guards is also a list of all variables (compiler-rt/lib/asan/asan_interface_internal.h).
struct asan_global {
  char *begin;
  size_t bytes, bytes_with_redzone;
  const char *name, *source;
  uintptr_t others[3];
};
extern struct asan_global __start_asan_globals[], __stop_asan_globals[];
extern char __data_start[], _end[];

static struct {
  char *begin, *copy;
  size_t bytes;
} statics[512];
static size_t static_count;

// The list itself lies among what is guarded.
__attribute__((no_sanitize("address"))) void fuzz_save_statics(const char *source_prefix) {
  for (struct asan_global *g = __start_asan_globals; g < __stop_asan_globals; g++) {
    bool writable = g->begin >= __data_start && g->begin < _end;
    if (g->begin == NULL || !writable || strncmp(g->source, source_prefix, strlen(source_prefix)) != 0) continue;
    if (static_count == sizeof statics / sizeof *statics) abort();
    statics[static_count].begin = g->begin;
    statics[static_count].bytes = g->bytes;
    statics[static_count].copy = malloc(g->bytes);
    if (statics[static_count].copy == NULL) abort();
    memcpy(statics[static_count++].copy, g->begin, g->bytes);
  }
  if (static_count == 0) fuzz_finding("the product has no variables: the list of them was not found");
}

void fuzz_restore_statics(void) {
  for (size_t i = 0; i < static_count; i++) memcpy(statics[i].begin, statics[i].copy, statics[i].bytes);
}

int fuzz_clock_gettime(clockid_t clock, struct timespec *now) {
  (void)clock;
  fuzz_pass_ms(1);
  now->tv_sec = (time_t)(clock_ns / 1000000000);
  now->tv_nsec = (long)(clock_ns % 1000000000);
  return 0;
}

void fuzz_pass_ms(uint64_t ms) { clock_ns += ms * 1000000; }

unsigned fuzz_new_process(void) {
  if (fuzz_depth == FUZZ_MOST_PROCESSES) fuzz_finding("processes nested too deeply");
  return fuzz_depth++;
}

void fuzz_exit(int code) {
  if (fuzz_depth == 0) fuzz_finding("_exit() outside of any process");
  fuzz_exit_code = code;
  longjmp(fuzz_process[--fuzz_depth], 1);
}
