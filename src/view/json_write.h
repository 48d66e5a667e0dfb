/* Writing JSON whose bytes are digested or end in a file. */
#ifndef VIEW_JSON_WRITE_H
#define VIEW_JSON_WRITE_H

#include <stdio.h>

/* Write `text`, which is UTF-8, as a JSON string. Only what RFC 8259, section 7, demands is escaped. Own code, because
 * the digest of the text must not depend on the version of a library. Errors stay in the stream (ferror). */
void tpv_json_write_string(FILE *stream, const char *text);

#endif
