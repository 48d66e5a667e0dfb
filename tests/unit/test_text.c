/* What of somebody else's text may reach a terminal, a log line or JSON. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>
#include <jansson.h>

#include "base/error.h"
#include "base/text.h"

static void is_shown_as(const char *text, const char *expected) {
    char copy[256];
    strcpy(copy, text);
    tpv_text_clean(copy);
    assert_string_equal(copy, expected);
    tpv_text_clean(copy);
    assert_string_equal(copy, expected);
}

static void text_stays(void **state) {
    (void)state;
    static const char *const good[] = {
        "",         "model.layers.0", "caf\xc3\xa9",  "\xe6\xa8\xa1\xe5\x9e\x8b", "\xf0\x9f\xa6\x99", "a b\"\\/~",
        "\xc2\xa0", "\xed\x9f\xbf",   "\xee\x80\x80", "\xf4\x8f\xbf\xbf"};
    for (size_t i = 0; i < sizeof good / sizeof *good; i++)
        is_shown_as(good[i], good[i]);
}

static void control_characters_go(void **state) {
    (void)state;
    is_shown_as("\x1b]0;owned\x07\x1b[31mred", "?]0;owned??[31mred");
    is_shown_as("a\nb\tc\rd\x7f", "a?b?c?d?");
    is_shown_as("\xc2\x9b"
                "31m",
                "??31m"); /* CSI as one character of C1 */
    is_shown_as("\xe2\x80\xae"
                "x",
                "???x"); /* right to left from here */
    is_shown_as("\xe2\x80\xa8\xe2\x81\xa6", "??????");
    for (int c = 1; c < 0x20; c++)
        is_shown_as((char[]){'x', (char)c, 0}, "x?");
}

static void what_is_not_utf8_goes(void **state) {
    (void)state;
    is_shown_as("caf\xe9", "caf?");
    is_shown_as("\xe9t\xe9", "?t?");
    is_shown_as("\xc3", "?");
    is_shown_as("\xe6\xa8", "??");
    is_shown_as("\xf0\x9f\xa6", "???");
    is_shown_as("\xc0\xaf", "??"); /* too long a form of '/' */
    is_shown_as("\xe0\x80\x80", "???");
    is_shown_as("\xed\xa0\x80", "???");      /* a surrogate */
    is_shown_as("\xf4\x90\x80\x80", "????"); /* beyond the last character */
    is_shown_as("\xf8\x88\x80\x80\x80", "?????");
    is_shown_as("\xff\xfe", "??");
}

/* Whatever comes in: what comes out is JSON text. */
static void every_pair_of_bytes_is_a_json_string_then(void **state) {
    (void)state;
    for (int a = 1; a < 256; a++) {
        for (int b = 1; b < 256; b++) {
            char text[] = {'x', (char)a, (char)b, 'y', 0};
            tpv_text_clean(text);
            json_t *string = json_string(text);
            assert_non_null(string);
            assert_int_equal(strlen(text), 4);
            assert_true(text[0] == 'x' && text[3] == 'y');
            json_decref(string);
        }
    }
}

static void a_copy_is_cut_to_fit(void **state) {
    (void)state;
    char shown[6];
    assert_string_equal(tpv_text_shown("ab\ncdefg", sizeof shown, shown), "ab?cd");
    assert_string_equal(tpv_text_shown("abcd\xc3\xa9", sizeof shown, shown), "abcd?");
    assert_string_equal(tpv_text_shown(NULL, sizeof shown, shown), "");
}

static void messages_are_clean(void **state) {
    (void)state;
    tpv_error_set(TPV_ERR_FORMAT, "name \"%s\"", "\x1b[2J\xff");
    assert_string_equal(tpv_error_message(), "name \"?[2J?\"");
    tpv_error_set(TPV_ERR_FORMAT, "%1022d\xc3\xa9", 0); /* a character that the end of the buffer cuts */
    json_t *string = json_string(tpv_error_message());
    assert_non_null(string);
    json_decref(string);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(text_stays),
        cmocka_unit_test(control_characters_go),
        cmocka_unit_test(what_is_not_utf8_goes),
        cmocka_unit_test(every_pair_of_bytes_is_a_json_string_then),
        cmocka_unit_test(a_copy_is_cut_to_fit),
        cmocka_unit_test(messages_are_clean),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
