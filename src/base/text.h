/* Text that somebody else wrote (names in files, hosts, paths, what a peer says) on its way to a terminal, a log or
 * JSON. */
#ifndef BASE_TEXT_H
#define BASE_TEXT_H

#include <stddef.h>

/* Put '?' for every byte that is not part of well-formed UTF-8 (RFC 3629), and for those of control characters: C0,
 * DEL, C1, line and paragraph separators, and those that turn the direction of writing. In place; the length stays. */
void tpv_text_clean(char *text);

/* The same on a copy in `shown`, of `room` bytes and cut to fit. Returns `shown`. NULL gives "". */
const char *tpv_text_shown(const char *text, size_t room, char *shown);

#endif
