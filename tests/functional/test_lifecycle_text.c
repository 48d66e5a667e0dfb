/* What others wrote into the table is shown as text: its readers print it on terminals and as JSON. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/clock.h"
#include "base/error.h"
#include "lifecycle/export.h"
#include "lifecycle/lease.h"
#include "tpview/lease.h"

#define OK(call)                                                                                                       \
    do {                                                                                                               \
        if ((call) != TPV_OK) fail_msg("%s: %s", #call, tpv_error_message());                                          \
    } while (0)

static void strangers_text_is_shown_clean(void **state) {
    (void)state;
    tpv_table_t *table = NULL;
    tpv_export_t export;
    tpv_export_role_t role;
    tpv_lease_t lease;
    tpv_lease_info_t *leases = NULL;
    size_t count = 0;
    tpv_export_key_t key = {.artifact_id = "0123456789abcdef0123456789abcdef",
                            .view_id = "fedcba9876543210fedcba9876543210",
                            .device = "host\x1b[2J",
                            .label = "m@1\nforged\xc2\x9b"};
    tpv_lease_request_t request = {.lease_id = "00112233445566778899aabbccddeeff",
                                   .ttl_ns = 3600 * TPV_NS_PER_SECOND,
                                   .remote_host = "h\x07\xff\xe2\x80\xae",
                                   .remote_pid = 1,
                                   .tp_size = 1};
    OK(tpv_table_open(NULL, TPV_OPEN_CREATE, &table));
    OK(tpv_export_acquire(table, &key, tpv_deadline_in(60), &export, &role));
    OK(tpv_export_publish(table, export, 1, 3600 * TPV_NS_PER_SECOND));
    OK(tpv_lease_begin(table, export, &request, &lease));
    OK(tpv_leases_read(NULL, &leases, &count));
    assert_int_equal(count, 1);
    assert_string_equal(leases[0].host, "h?????");
    assert_string_equal(leases[0].artifact, "m@1?forged??");
    assert_string_equal(leases[0].device, "host?[2J");
    free(leases);
    tpv_lease_end(table, lease);
    OK(tpv_export_withdraw(table, export));
    OK(tpv_export_close(table, export));
    OK(tpv_export_free(table, export));
    tpv_table_close(table);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(strangers_text_is_shown_clean)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
