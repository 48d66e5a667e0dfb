/*
 * JSON as Python's json module reads it, which is what wrote a config.json. Beyond RFC 8259 that has the words NaN,
 * Infinity and -Infinity, numbers of any size, and escapes of half a surrogate pair or of U+0000 (json.decoder,
 * json.scanner of CPython 3).
 */
#ifndef ARTIFACT_JSON_PYTHON_H
#define ARTIFACT_JSON_PYTHON_H

#include "artifact/json.h"

/*
 * Parse a value of at most `limit` bytes into a tree that can hold all of it: an integer beyond 64 bits becomes a real,
 * a number that is none or not finite the string "NaN", "Infinity" or "-Infinity", a character that text in C or UTF-8
 * cannot have U+FFFD. A name that appears twice in an object is refused, where Python takes the last. The caller
 * decrefs *json. TPV_ERR_FORMAT, TPV_ERR_NO_MEMORY.
 */
tpv_status_t tpv_json_parse_python(tpv_json_text_t text, size_t limit, json_t **json);

#endif
