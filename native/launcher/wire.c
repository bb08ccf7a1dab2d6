#include "wire.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

int answer_fd = -1;

void *must_alloc(size_t size) {
  void *p = calloc(1, size ? size : 1);
  if (!p) _exit(70);
  return p;
}

static const unsigned char *take(struct in *in, size_t n) {
  if (in->bad || in->left < n) {
    in->bad = true;
    return NULL;
  }
  const unsigned char *p = in->at;
  in->at += n;
  in->left -= n;
  return p;
}

uint32_t in_u32(struct in *in) {
  const unsigned char *p = take(in, 4);
  return p ? (uint32_t)p[0] | (uint32_t)p[1] << 8 | (uint32_t)p[2] << 16 | (uint32_t)p[3] << 24 : 0;
}

uint64_t in_u64(struct in *in) {
  uint64_t low = in_u32(in);
  return low | (uint64_t)in_u32(in) << 32;
}

const unsigned char *in_bytes(struct in *in, size_t *length) {
  uint32_t n = in_u32(in);
  const unsigned char *p = take(in, n);
  *length = p ? n : 0;
  return p;
}

char *in_str(struct in *in) {
  size_t n;
  const unsigned char *p = in_bytes(in, &n);
  if (p && memchr(p, 0, n)) in->bad = true;
  char *s = must_alloc(n + 1);
  if (p) memcpy(s, p, n);
  return s;
}

char **in_list(struct in *in) {
  uint32_t count = in_u32(in);
  if (count > MAX_LIST) {
    in->bad = true;
    count = 0;
  }
  char **list = must_alloc((count + 1) * sizeof *list);
  for (uint32_t i = 0; i < count; i++) list[i] = in_str(in);
  return list;
}

void out_raw(struct out *out, const void *data, size_t length) {
  if (out->capacity - out->length < length) {
    size_t capacity = (out->length + length) * 2 + 64;
    unsigned char *grown = realloc(out->data, capacity);
    if (!grown) _exit(70);
    out->data = grown;
    out->capacity = capacity;
  }
  if (length) memcpy(out->data + out->length, data, length);
  out->length += length;
}

void out_u8(struct out *out, uint8_t value) { out_raw(out, &value, 1); }

void out_u32(struct out *out, uint32_t value) {
  unsigned char b[4] = {value & 255, value >> 8 & 255, value >> 16 & 255, value >> 24};
  out_raw(out, b, 4);
}

void out_u64(struct out *out, uint64_t value) {
  out_u32(out, (uint32_t)value);
  out_u32(out, (uint32_t)(value >> 32));
}

void out_bytes(struct out *out, const void *data, size_t length) {
  out_u32(out, (uint32_t)length);
  out_raw(out, data, length);
}

static _Noreturn void finish(uint8_t status, const struct out *body) {
  struct out all = {0};
  out_u8(&all, status);
  out_raw(&all, body->data, body->length);
  for (size_t sent = 0; sent < all.length;) {
    ssize_t n = write(answer_fd, all.data + sent, all.length - sent);
    if (n < 0 && errno == EINTR) continue;
    if (n <= 0) _exit(1);
    sent += (size_t)n;
  }
  _exit(0);
}

void answer_ok(const struct out *out) { finish(0, out); }

void answer_error(int error, const char *format, ...) {
  char text[4096];
  va_list args;
  va_start(args, format);
  vsnprintf(text, sizeof text, format, args);
  va_end(args);
  struct out body = {0};
  out_u32(&body, (uint32_t)error);
  out_bytes(&body, text, strlen(text));
  finish(1, &body);
}
