#include "front.h"

#include <stdint.h>
#include <stdlib.h>
#include <string.h>

void add(struct text *t, const char *bytes, size_t count) {
  if (count > MAX_TEXT - t->bytes) t->full = true;
  if (t->full || count == 0) return;
  if (t->bytes + count > t->room) {
    size_t room = (t->bytes + count) * 2 + 256;
    char *at = realloc(t->at, room);
    if (at == NULL) {
      t->full = true;
      return;
    }
    t->at = at;
    t->room = room;
  }
  memcpy(t->at + t->bytes, bytes, count);
  t->bytes += count;
}

void add_str(struct text *t, const char *string) {
  add(t, string, strlen(string));
}

/// Length of the well-formed character (RFC 3629) at `s`; 0: it is none.
static size_t character(const unsigned char *s) {
  if (s[0] < 0x80) return 1;
  size_t length = s[0] >= 0xf0 ? 4 : s[0] >= 0xe0 ? 3 : 2;
  if (s[0] < 0xc2 || s[0] > 0xf4) return 0;
  for (size_t i = 1; i < length; i++)
    if ((s[i] & 0xc0) != 0x80) return 0;
  uint32_t first_two = (uint32_t)s[0] << 8 | s[1];
  // Longer than need be, halves of pairs, and beyond the last one.
  if ((s[0] == 0xe0 && s[1] < 0xa0) || (s[0] == 0xf0 && s[1] < 0x90)) return 0;
  if ((first_two >= 0xeda0 && first_two <= 0xedbf) || first_two >= 0xf490) return 0;
  return length;
}

bool add_json_string(struct text *t, const char *string) {
  add(t, "\"", 1);
  for (const unsigned char *s = (const unsigned char *)string; *s != 0;) {
    size_t length = character(s);
    if (length == 0) return false;
    if (*s == '"' || *s == '\\') {
      add(t, "\\", 1);
      add(t, (const char *)s, 1);
    } else if (*s < 0x20) {
      static const char digits[] = "0123456789abcdef";
      char escaped[6] = {'\\', 'u', '0', '0', digits[*s >> 4], digits[*s & 15]};
      add(t, escaped, sizeof escaped);
    } else {
      add(t, (const char *)s, length);
    }
    s += length;
  }
  add(t, "\"", 1);
  return true;
}

/// Behind the string that begins at `at`; NULL: it does not end.
static const char *skip_string(const char *at, const char *end) {
  for (at++; at < end; at++) {
    if (*at == '\\') at++;
    else if (*at == '"') return at + 1;
  }
  return NULL;
}

/// Behind the value that begins at `at`: what comes before the next comma or bracket that is not inside of it.
static const char *skip_value(const char *at, const char *end) {
  size_t depth = 0;
  while (at < end) {
    if (*at == '"') {
      at = skip_string(at, end);
      if (at == NULL) return NULL;
      continue;
    }
    if (*at == '{' || *at == '[') depth++;
    else if ((*at == '}' || *at == ']') && depth-- == 0) return at;
    else if (*at == ',' && depth == 0) return at;
    at++;
  }
  return NULL;
}

bool json_find(const char *object, size_t bytes, const char *key, const char **value, size_t *value_bytes) {
  const char *at = object, *end = object + bytes;
  size_t key_bytes = strlen(key);
  if (bytes < 2 || *at++ != '{') return false;
  // JSON.stringify, which wrote it, puts no blanks between.
  while (at < end && *at == '"') {
    const char *name = at + 1;
    at = skip_string(at, end);
    if (at == NULL || at >= end || *at != ':') return false;
    size_t name_bytes = (size_t)(at - 1 - name);
    const char *begin = at + 1;
    at = skip_value(begin, end);
    if (at == NULL) return false;
    if (name_bytes == key_bytes && memcmp(name, key, key_bytes) == 0) {
      bool quoted = at - begin >= 2 && *begin == '"';
      *value = begin + quoted;
      *value_bytes = (size_t)(at - begin) - 2 * quoted;
      return true;
    }
    if (*at == ',') at++;
  }
  return false;
}

bool json_is(const char *object, size_t bytes, const char *key, const char *expected) {
  const char *value;
  size_t count;
  return json_find(object, bytes, key, &value, &count) && count == strlen(expected) && memcmp(value, expected, count) == 0;
}
