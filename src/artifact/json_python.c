/* The text is rewritten into one that jansson takes, which then checks its syntax. */
#include "artifact/json_python.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/error.h"

#define SAFE_DIGITS 18 /* any integer of so many fits in 64 bits */

typedef struct {
    const char *at, *end;
    FILE *out;
} rewriter_t;

static int peek(const rewriter_t *rewriter, size_t ahead) {
    return (size_t)(rewriter->end - rewriter->at) > ahead ? (unsigned char)rewriter->at[ahead] : -1;
}

static void copy(rewriter_t *rewriter, size_t length) {
    size_t left = (size_t)(rewriter->end - rewriter->at);
    if (length > left) length = left;
    fwrite(rewriter->at, 1, length, rewriter->out);
    rewriter->at += length;
}

/* The code unit of an escape "\uXXXX" that begins `ahead` bytes from here; -1 when there is none. */
static int unit_at(const rewriter_t *rewriter, size_t ahead) {
    if (peek(rewriter, ahead) != '\\' || peek(rewriter, ahead + 1) != 'u') return -1;
    int unit = 0;
    for (size_t i = 2; i < 6; i++) {
        int digit = peek(rewriter, ahead + i);
        if (digit >= '0' && digit <= '9')
            unit = unit * 16 + digit - '0';
        else if ((digit | 32) >= 'a' && (digit | 32) <= 'f')
            unit = unit * 16 + (digit | 32) - 'a' + 10;
        else
            return -1;
    }
    return unit;
}

static void rewrite_escape(rewriter_t *rewriter) {
    int unit = unit_at(rewriter, 0), next = unit_at(rewriter, 6);
    if (unit >= 0xd800 && unit < 0xdc00 && next >= 0xdc00 && next < 0xe000) {
        copy(rewriter, 12);
    } else if (unit == 0 || (unit >= 0xd800 && unit < 0xe000)) {
        fputs("\\ufffd", rewriter->out);
        rewriter->at += 6;
    } else {
        copy(rewriter, 2);
    }
}

static void rewrite_string(rewriter_t *rewriter) {
    copy(rewriter, 1);
    while (rewriter->at < rewriter->end) {
        if (*rewriter->at == '\\') {
            rewrite_escape(rewriter);
            continue;
        }
        bool last = *rewriter->at == '"';
        copy(rewriter, 1);
        if (last) return;
    }
}

/* Whether the value stands here as a word of its own. */
static bool take_word(rewriter_t *rewriter, const char *word) {
    size_t length = strlen(word);
    if ((size_t)(rewriter->end - rewriter->at) < length || memcmp(rewriter->at, word, length) != 0) return false;
    size_t next = length;
    while (peek(rewriter, next) >= 0 && strchr(" \t\r\n", peek(rewriter, next)))
        next++;
    /* As the name of a member it is a fault. */
    fprintf(rewriter->out, peek(rewriter, next) == ':' ? "%s" : "\"%s\"", word);
    rewriter->at += length;
    return true;
}

static bool overflows(const char *number) {
    json_error_t error;
    json_t *json = json_loads(number, JSON_DECODE_ANY, &error);
    bool good = json != NULL;
    json_decref(json);
    return !good && json_error_code(&error) == json_error_numeric_overflow;
}

/* False when out of memory. */
static bool rewrite_number(rewriter_t *rewriter) {
    size_t length = 0;
    while (peek(rewriter, length) >= 0 && strchr("+-.0123456789eE", peek(rewriter, length)))
        length++;
    if (length <= SAFE_DIGITS && !memchr(rewriter->at, 'e', length) && !memchr(rewriter->at, 'E', length)) {
        copy(rewriter, length);
        return true;
    }
    char *number = malloc(length + 3);
    if (!number) return false;
    memcpy(number, rewriter->at, length);
    number[length] = '\0';
    if (overflows(number)) strcpy(number + length, "e0");
    if (overflows(number))
        fputs(*number == '-' ? "\"-Infinity\"" : "\"Infinity\"", rewriter->out);
    else
        fputs(number, rewriter->out);
    free(number);
    rewriter->at += length;
    return true;
}

static bool rewrite(rewriter_t *rewriter) {
    while (rewriter->at < rewriter->end) {
        int next = peek(rewriter, 0);
        if (next == '"') {
            rewrite_string(rewriter);
        } else if (take_word(rewriter, "NaN") || take_word(rewriter, "Infinity") || take_word(rewriter, "-Infinity")) {
            continue;
        } else if (next == '-' || (next >= '0' && next <= '9')) {
            if (!rewrite_number(rewriter)) return false;
        } else {
            copy(rewriter, 1);
        }
    }
    return true;
}

tpv_status_t tpv_json_parse_python(tpv_json_text_t text, size_t limit, json_t **json) {
    char *written = NULL;
    size_t length = 0;
    *json = NULL;
    if (text.length > limit)
        return tpv_error_set(TPV_ERR_FORMAT, "a value of %zu bytes: expected at most %zu", text.length, limit);
    FILE *out = open_memstream(&written, &length);
    if (!out) return tpv_error_set(TPV_ERR_NO_MEMORY, "no memory to parse JSON");
    rewriter_t rewriter = {text.start, text.start + text.length, out};
    bool good = rewrite(&rewriter) && !ferror(out);
    tpv_status_t status = TPV_OK;
    if (fclose(out) != 0 || !good) status = tpv_error_set(TPV_ERR_NO_MEMORY, "no memory to parse JSON");
    if (status == TPV_OK) status = tpv_json_parse((tpv_json_text_t){written, length}, length, json);
    free(written);
    return status;
}
