#include "service/body.h"

#include <stdlib.h>
#include <string.h>

static bool grow(tpv_body_t *body, const tpv_body_account_t *account, size_t needed) {
    size_t room = 2 * needed, reserve = room > TPV_BODY_SMALL ? room : 0;
    if (reserve > body->reserved && !account->reserve(account->user, reserve - body->reserved)) return false;
    if (reserve > body->reserved) body->reserved = reserve;
    char *grown = realloc(body->bytes, room); /* what was reserved for it goes with the body */
    if (!grown) return false;
    body->bytes = grown;
    body->room = room;
    return true;
}

bool tpv_body_append(tpv_body_t *body, const tpv_body_account_t *account, const char *data, size_t bytes, size_t most) {
    if (bytes > most - body->length) return false;
    size_t needed = body->length + bytes + 1;
    if (needed > body->room && !grow(body, account, needed)) return false;
    memcpy(body->bytes + body->length, data, bytes);
    body->length += bytes;
    body->bytes[body->length] = '\0';
    return true;
}

void tpv_body_clear(tpv_body_t *body, const tpv_body_account_t *account) {
    if (body->reserved > 0) account->unreserve(account->user, body->reserved);
    free(body->bytes);
    *body = (tpv_body_t){0};
}
