/* Fetches on a thread of their own: waiting, cancelling, freeing, and how a failure is told to another thread. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "common/test_files.h"
#include "tpview/tpview.h"

/* The index_digest is that of {"a": ["U8", [2]]}. */
#define MANIFEST                                                                                                       \
    "{\"format\":\"tpview-manifest-1\",\"artifact_id\":\"00112233445566778899aabbccddeeff\","                          \
    "\"index_digest\":\"084020869203c05f273be7f3bb95518f\",\"tensors\":{\"a\":[\"U8\",[2]]}}"
#define SPEC                                                                                                           \
    "{\"format\":\"tpview-view-1\",\"outputs\":[{\"name\":\"a\",\"dtype\":\"U8\",\"shape\":[2],"                       \
    "\"pieces\":[{\"tensor\":\"a\",\"sizes\":[2]}]}]}"

typedef struct {
    char *folder;
    int listener; /* accepts in the kernel's queue, never answers */
    tpv_artifact_t *artifact;
    tpv_view_t *view;
    tpv_source_t *source;
    uint8_t destination[2];
} fixture_t;

static int setup(void **state) {
    fixture_t *f = calloc(1, sizeof *f);
    f->folder = test_folder_make();
    struct sockaddr_un name = {.sun_family = AF_UNIX};
    snprintf(name.sun_path, sizeof name.sun_path, "%s/s", f->folder);
    f->listener = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    assert_int_equal(bind(f->listener, (struct sockaddr *)&name, sizeof name), 0);
    assert_int_equal(listen(f->listener, 8), 0);
    assert_int_equal(tpv_artifact_from_manifest(MANIFEST, strlen(MANIFEST), &f->artifact), TPV_OK);
    assert_int_equal(tpv_view_from_json(f->artifact, SPEC, strlen(SPEC), &f->view), TPV_OK);
    char address[160];
    snprintf(address, sizeof address, "unix:%s", name.sun_path);
    assert_int_equal(tpv_source_open(address, NULL, &f->source), TPV_OK);
    *state = f;
    return 0;
}

static int teardown(void **state) {
    fixture_t *f = *state;
    tpv_source_close(f->source);
    tpv_view_free(f->view);
    tpv_artifact_close(f->artifact);
    close(f->listener);
    test_folder_remove(f->folder);
    free(f);
    return 0;
}

static tpv_fetch_job_t *start(fixture_t *f, double deadline_s) {
    tpv_fetch_job_t *job = NULL;
    tpv_fetch_options_t options = {.deadline_s = deadline_s};
    assert_int_equal(tpv_fetch_job_start(f->source, f->artifact, f->view, &options, f->destination, &job), TPV_OK);
    assert_non_null(job);
    return job;
}

static void a_deadline_ends_it_and_the_message_is_told_to_this_thread(void **state) {
    tpv_fetch_job_t *job = start(*state, 0.2);
    uint64_t done = 1, total = 0;
    tpv_fetch_job_progress(job, &done, &total);
    assert_int_equal(done, 0);
    assert_int_equal(total, 2);
    assert_true(tpv_fetch_job_wait(job, 60));
    tpv_fetch_result_t result;
    assert_int_equal(tpv_fetch_job_result(job, &result), TPV_ERR_DEADLINE);
    assert_non_null(strstr(tpv_error_message(), "deadline"));
    tpv_fetch_job_free(job);
}

static void cancelling_ends_it(void **state) {
    tpv_fetch_job_t *job = start(*state, 0);
    assert_false(tpv_fetch_job_wait(job, 0.05));
    tpv_fetch_result_t result;
    assert_int_equal(tpv_fetch_job_result(job, &result), TPV_ERR_ARGUMENT);
    tpv_fetch_job_cancel(job);
    assert_true(tpv_fetch_job_wait(job, 60));
    assert_int_equal(tpv_fetch_job_result(job, &result), TPV_ERR_CANCELLED);
    tpv_fetch_job_free(job);
}

static void freeing_a_running_one_ends_it(void **state) {
    tpv_fetch_job_free(start(*state, 0));
    tpv_fetch_job_free(NULL);
}

static void *wait_for_it(void *job) {
    return tpv_fetch_job_wait(job, -1) ? job : NULL;
}

static void any_number_of_threads_wait(void **state) {
    tpv_fetch_job_t *job = start(*state, 0);
    pthread_t threads[4];
    for (int i = 0; i < 4; i++)
        assert_int_equal(pthread_create(&threads[i], NULL, wait_for_it, job), 0);
    tpv_fetch_job_cancel(job);
    for (int i = 0; i < 4; i++) {
        void *seen = NULL;
        pthread_join(threads[i], &seen);
        assert_ptr_equal(seen, job);
    }
    tpv_fetch_job_free(job);
}

static bool never_called(void *user, uint64_t bytes_done, uint64_t bytes_total) {
    (void)user;
    (void)bytes_done;
    (void)bytes_total;
    return true;
}

static void a_callback_is_refused(void **state) {
    fixture_t *f = *state;
    tpv_fetch_job_t *job = NULL;
    tpv_fetch_options_t options = {.progress = never_called};
    assert_int_equal(tpv_fetch_job_start(f->source, f->artifact, f->view, &options, f->destination, &job),
                     TPV_ERR_ARGUMENT);
    assert_null(job);
}

static void tensors_need_a_destination_that_can_be(void **state) {
    fixture_t *f = *state;
    tpv_fetch_job_t *job = NULL;
    tpv_fetch_options_t options = {0};
    tpv_destination_t nowhere = {.strides = {1}}, one_place = {.data = f->destination};
    assert_int_equal(tpv_fetch_job_start_tensors(f->source, f->artifact, f->view, &options, &nowhere, &job),
                     TPV_ERR_ARGUMENT);
    assert_null(job);
    assert_int_equal(tpv_fetch_job_start_tensors(f->source, f->artifact, f->view, &options, &one_place, &job),
                     TPV_ERR_ARGUMENT);
    assert_null(job);
}

static void destinations_are_copied(void **state) {
    fixture_t *f = *state;
    tpv_fetch_job_t *job = NULL;
    tpv_fetch_options_t options = {0};
    tpv_destination_t *destination = malloc(sizeof *destination);
    *destination = (tpv_destination_t){.data = f->destination, .strides = {1}};
    assert_int_equal(tpv_fetch_job_start_tensors(f->source, f->artifact, f->view, &options, destination, &job), TPV_OK);
    free(destination);
    tpv_fetch_job_cancel(job);
    assert_true(tpv_fetch_job_wait(job, 60));
    tpv_fetch_result_t result;
    assert_int_equal(tpv_fetch_job_result(job, &result), TPV_ERR_CANCELLED);
    tpv_fetch_job_free(job);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(a_deadline_ends_it_and_the_message_is_told_to_this_thread, setup, teardown),
        cmocka_unit_test_setup_teardown(cancelling_ends_it, setup, teardown),
        cmocka_unit_test_setup_teardown(tensors_need_a_destination_that_can_be, setup, teardown),
        cmocka_unit_test_setup_teardown(destinations_are_copied, setup, teardown),
        cmocka_unit_test_setup_teardown(freeing_a_running_one_ends_it, setup, teardown),
        cmocka_unit_test_setup_teardown(any_number_of_threads_wait, setup, teardown),
        cmocka_unit_test_setup_teardown(a_callback_is_refused, setup, teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
