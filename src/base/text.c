#include "base/text.h"

#include <stdbool.h>
#include <stdint.h>
#include <string.h>

/* The bytes of the character at `text` and its number; 0 when it is not well-formed. The zero that ends a text ends a
 * character as well. */
static size_t decode(const unsigned char *text, uint32_t *character) {
    static const uint32_t least[] = {0, 0, 0x80, 0x800, 0x10000};
    size_t length = text[0] < 0x80             ? 1
                    : (text[0] & 0xe0) == 0xc0 ? 2
                    : (text[0] & 0xf0) == 0xe0 ? 3
                    : (text[0] & 0xf8) == 0xf0 ? 4
                                               : 0;
    if (length == 0) return 0;
    uint32_t value = length == 1 ? text[0] : text[0] & (0x7fu >> length);
    for (size_t i = 1; i < length; i++) {
        if ((text[i] & 0xc0) != 0x80) return 0;
        value = value << 6 | (text[i] & 0x3f);
    }
    if (value < least[length] || value > 0x10ffff || (value >= 0xd800 && value <= 0xdfff)) return 0;
    *character = value;
    return length;
}

static bool is_control(uint32_t c) {
    return c < 0x20 || (c >= 0x7f && c < 0xa0) || c == 0x200e || c == 0x200f || (c >= 0x2028 && c <= 0x202e) ||
           (c >= 0x2066 && c <= 0x2069);
}

void tpv_text_clean(char *text) {
    while (*text) {
        uint32_t character = 0;
        size_t length = decode((const unsigned char *)text, &character);
        if (length == 0 || is_control(character)) memset(text, '?', length ? length : 1);
        text += length ? length : 1;
    }
}

const char *tpv_text_shown(const char *text, size_t room, char *shown) {
    size_t length = text ? strnlen(text, room - 1) : 0;
    if (length > 0) memcpy(shown, text, length);
    shown[length] = '\0';
    tpv_text_clean(shown);
    return shown;
}
