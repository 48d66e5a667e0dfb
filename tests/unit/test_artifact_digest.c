/* artifact_id: what it depends on and what not, cancelling, and files that change while they are read. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>

#include "artifact/artifact.h"
#include "artifact/digest.h"
#include "base/clock.h"
#include "common/test_files.h"

#define MIB ((size_t)1 << 20)

static char *folder;

static int make_folder(void **state) {
    (void)state;
    folder = test_folder_make();
    return 0;
}

static int remove_folder(void **state) {
    (void)state;
    test_folder_remove(folder);
    return 0;
}

static tpv_artifact_t *open_path(const char *path) {
    tpv_artifact_t *artifact = NULL;
    tpv_status_t status = tpv_artifact_open(path, &artifact);
    if (status != TPV_OK) print_error("%s\n", tpv_error_message());
    assert_int_equal(status, TPV_OK);
    return artifact;
}

/* The id of the artifact at `path`, in one of two static buffers that take turns. */
static const char *id_of(const char *path, unsigned threads) {
    static char ids[2][TPV_ID_CHARS];
    static int turn;
    turn = !turn;
    tpv_artifact_t *artifact = open_path(path);
    assert_string_equal(tpv_artifact_id(artifact), "");
    assert_int_equal(tpv_artifact_digest(artifact, threads, NULL, NULL), TPV_OK);
    strcpy(ids[turn], tpv_artifact_id(artifact));
    tpv_artifact_close(artifact);
    assert_int_equal(strlen(ids[turn]), 32);
    return ids[turn];
}

/* Two whole pieces and a part, a whole piece, small ones, an empty one. */
#define LONG_BYTES (2 * TPV_DIGEST_PIECE_BYTES + 3 * MIB + 5)
#define LONG_HEADER                                                                                                    \
    "{\"long\":{\"dtype\":\"U8\",\"shape\":[36700165],\"data_offsets\":[0,36700165]},"                                 \
    "\"piece\":{\"dtype\":\"BF16\",\"shape\":[2,4194304],\"data_offsets\":[36700165,53477381]},"                       \
    "\"none\":{\"dtype\":\"BF16\",\"shape\":[2,0],\"data_offsets\":[53477381,53477381]},"                              \
    "\"tiny\":{\"dtype\":\"F32\",\"shape\":[],\"data_offsets\":[53477381,53477385]}}"
#define LONG_DATA 53477385

static void threads_do_not_matter(void **state) {
    (void)state;
    const char *path = test_path(folder, "m.safetensors");
    assert_int_equal(LONG_BYTES, 36700165);
    test_safetensors_write(path, LONG_HEADER, LONG_DATA, 7);
    char one[TPV_ID_CHARS];
    strcpy(one, id_of(path, 1));
    assert_string_equal(one, "946e72fb248e1ec8426ca508c3d32344");
    assert_string_equal(one, id_of(path, 2));
    assert_string_equal(one, id_of(path, 7));
    assert_string_equal(one, id_of(path, 0));
    assert_string_equal(one, id_of(path, 100000));
}

static void every_byte_matters_and_only_to_the_id(void **state) {
    (void)state;
    const char *path = test_path(folder, "m.safetensors");
    test_safetensors_write(path, LONG_HEADER, LONG_DATA, 7);
    char first[TPV_ID_CHARS], index[TPV_ID_CHARS];
    strcpy(first, id_of(path, 0));
    tpv_artifact_t *artifact = open_path(path);
    strcpy(index, tpv_artifact_index_digest(artifact));
    const uint8_t *first_byte = tpv_artifact_data(artifact, tpv_artifact_find(artifact, "long"));
    /* Edges of tensors, of pieces, of reads, and the last byte of all. */
    const size_t places[] = {
        0, TPV_DIGEST_PIECE_BYTES - 1, TPV_DIGEST_PIECE_BYTES, LONG_BYTES - 1, LONG_BYTES, LONG_DATA - 1};
    for (size_t i = 0; i < sizeof places / sizeof *places; i++) {
        uint64_t offset = 8 + strlen(LONG_HEADER) + places[i];
        uint8_t before = first_byte[places[i]];
        test_file_poke(path, offset, before ^ 1);
        tpv_artifact_t *changed = open_path(path);
        assert_string_equal(tpv_artifact_index_digest(changed), index);
        tpv_artifact_close(changed);
        assert_string_not_equal(id_of(path, 0), first);
        test_file_poke(path, offset, before);
    }
    assert_string_equal(id_of(path, 0), first);
    tpv_artifact_close(artifact);
}

static void bytes_that_change_places_change_the_id(void **state) {
    (void)state;
    const char *path = test_path(folder, "m.safetensors");
    const char *header = "{\"a\":{\"dtype\":\"U8\",\"shape\":[2],\"data_offsets\":[0,2]},"
                         "\"b\":{\"dtype\":\"U8\",\"shape\":[2],\"data_offsets\":[2,4]}}";
    const char *turned = "{\"a\":{\"dtype\":\"U8\",\"shape\":[2],\"data_offsets\":[2,4]},"
                         "\"b\":{\"dtype\":\"U8\",\"shape\":[2],\"data_offsets\":[0,2]}}";
    test_safetensors_write(path, header, 4, 1);
    char first[TPV_ID_CHARS];
    strcpy(first, id_of(path, 1));
    assert_string_equal(first, "7c9da35c876926eb3340907eef00d075");
    test_safetensors_write(path, turned, 4, 1);
    assert_string_not_equal(first, id_of(path, 1));
    test_safetensors_write(path, header, 4, 1);
    assert_string_equal(first, id_of(path, 1));
}

/* The same tensors as one file, and as two in which they lie in another order. */
static void files_do_not_matter(void **state) {
    (void)state;
    const char *single = test_path(folder, "single.safetensors");
    uint8_t bytes[8] = {1, 2, 3, 4, 5, 6, 7, 8};
    char file[400];
    const char *header = "{\"a\":{\"dtype\":\"U8\",\"shape\":[3],\"data_offsets\":[0,3]},"
                         "\"b\":{\"dtype\":\"U8\",\"shape\":[4],\"data_offsets\":[3,7]},"
                         "\"c\":{\"dtype\":\"U8\",\"shape\":[],\"data_offsets\":[7,8]}}";
    int length = snprintf(file, sizeof file, "%c%c%c%c%c%c%c%c%s", (int)strlen(header), 0, 0, 0, 0, 0, 0, 0, header);
    memcpy(file + length, bytes, 8);
    test_file_write(single, file, (size_t)length + 8);
    char expected[TPV_ID_CHARS];
    strcpy(expected, id_of(single, 1));
    remove(single);

    header = "{\"__metadata__\":{\"format\":\"pt\"},\"c\":{\"dtype\":\"U8\",\"shape\":[],\"data_offsets\":[0,1]},"
             "\"a\":{\"dtype\":\"U8\",\"shape\":[3],\"data_offsets\":[1,4]}}";
    length = snprintf(file, sizeof file, "%c%c%c%c%c%c%c%c%s", (int)strlen(header), 0, 0, 0, 0, 0, 0, 0, header);
    memcpy(file + length, bytes + 7, 1);
    memcpy(file + length + 1, bytes, 3);
    test_file_write(test_path(folder, "2.safetensors"), file, (size_t)length + 4);
    header = "{\"b\":{\"dtype\":\"U8\",\"shape\":[4],\"data_offsets\":[0,4]}}";
    length = snprintf(file, sizeof file, "%c%c%c%c%c%c%c%c%s", (int)strlen(header), 0, 0, 0, 0, 0, 0, 0, header);
    memcpy(file + length, bytes + 3, 4);
    test_file_write(test_path(folder, "1.safetensors"), file, (size_t)length + 4);
    test_file_write_text(test_path(folder, "model.safetensors.index.json"),
                         "{\"weight_map\":{\"a\":\"2.safetensors\",\"b\":\"1.safetensors\",\"c\":\"2.safetensors\"}}");
    assert_string_equal(expected, id_of(folder, 2));
}

typedef struct {
    pthread_t caller;
    unsigned calls, refuse_at;
    uint64_t done, total;
    bool backwards;
    const char *truncate; /* a path */
    clock_t refused;      /* CPU time */
} progress_t;

static bool report(void *user, uint64_t done, uint64_t total) {
    progress_t *progress = user;
    assert_true(pthread_equal(progress->caller, pthread_self()));
    if (done < progress->done || done > total) progress->backwards = true;
    progress->done = done;
    progress->total = total;
    if (progress->truncate) test_file_resize(progress->truncate, 4096);
    progress->refused = clock();
    return ++progress->calls != progress->refuse_at;
}

#define HOLE_BYTES (UINT64_C(256) << 30)
#define HOLE_HEADER "{\"hole\":{\"dtype\":\"U8\",\"shape\":[274877906944],\"data_offsets\":[0,274877906944]}}"

static void progress_reaches_the_end(void **state) {
    (void)state;
    const char *path = test_path(folder, "m.safetensors");
    test_safetensors_write(path, LONG_HEADER, LONG_DATA, 7);
    tpv_artifact_t *artifact = open_path(path);
    progress_t progress = {.caller = pthread_self()};
    assert_int_equal(tpv_artifact_digest(artifact, 2, report, &progress), TPV_OK);
    assert_true(progress.calls > 0);
    assert_false(progress.backwards);
    assert_int_equal(progress.done, LONG_DATA);
    assert_int_equal(progress.total, LONG_DATA);
    progress.calls = 0;
    assert_int_equal(tpv_artifact_digest(artifact, 2, report, &progress), TPV_OK); /* known by now */
    assert_int_equal(progress.calls, 0);
    tpv_artifact_close(artifact);
}

static void cancelling_ends_it_early(void **state) {
    (void)state;
    const char *path = test_path(folder, "hole.safetensors");
    test_safetensors_write_sparse(path, HOLE_HEADER, HOLE_BYTES);
    tpv_artifact_t *artifact = open_path(path);
    progress_t progress = {.caller = pthread_self(), .refuse_at = 2};
    assert_int_equal(tpv_artifact_digest(artifact, 2, report, &progress), TPV_ERR_CANCELLED);
    /* CPU seconds, so that a busy machine does not fail the test; all of it would take ten and more. */
    assert_true(clock() - progress.refused < 2 * CLOCKS_PER_SEC);
    assert_string_equal(tpv_error_message(), "the digest was cancelled");
    assert_int_equal(progress.calls, 2);
    assert_true(progress.done < progress.total);
    assert_string_equal(tpv_artifact_id(artifact), "");
    tpv_artifact_close(artifact);
}

static void a_file_truncated_meanwhile_is_an_error(void **state) {
    (void)state;
    const char *path = test_path(folder, "hole.safetensors");
    char expected[4200];
    test_safetensors_write_sparse(path, HOLE_HEADER, HOLE_BYTES);
    tpv_artifact_t *artifact = open_path(path);
    progress_t progress = {.caller = pthread_self(), .truncate = path};
    assert_int_equal(tpv_artifact_digest(artifact, 2, report, &progress), TPV_ERR_FORMAT);
    snprintf(expected, sizeof expected, "%s: the file shrank since it was opened: it had %llu bytes", path,
             (unsigned long long)(HOLE_BYTES + 8 + strlen(HOLE_HEADER)));
    assert_non_null(strstr(tpv_error_message(), expected));
    assert_string_equal(tpv_artifact_id(artifact), "");
    /* Now it is short from the start: told before any reading, and by the reading itself. */
    assert_int_equal(tpv_artifact_digest(artifact, 2, NULL, NULL), TPV_ERR_FORMAT);
    assert_int_equal(strncmp(tpv_error_message(), expected, strlen(expected)), 0);
    uint8_t digests[TPV_VALUE_DIGEST_BYTES];
    assert_int_equal(tpv_digest_values(artifact, 2, NULL, NULL, digests), TPV_ERR_FORMAT);
    assert_int_equal(strncmp(tpv_error_message(), "tensor \"hole\": ", 15), 0);
    assert_string_equal(tpv_error_message() + 15, expected);
    tpv_artifact_close(artifact);
}

static void a_file_written_to_meanwhile_is_an_error(void **state) {
    (void)state;
    const char *path = test_path(folder, "m.safetensors");
    const char *header = "{\"a\":{\"dtype\":\"U8\",\"shape\":[2],\"data_offsets\":[0,2]}}";
    test_safetensors_write(path, header, 2, 1);
    tpv_artifact_t *artifact = open_path(path);
    assert_int_equal(tpv_artifact_check(artifact), TPV_OK);
    assert_int_equal(tpv_artifact_check_tensor(artifact, tpv_artifact_find(artifact, "a")), TPV_OK);
    /* The clock of a file system has a grain, so a single write may leave the time as it is. */
    int64_t deadline = tpv_deadline_in(60);
    do
        test_file_poke(path, 8 + strlen(header), 77);
    while (tpv_artifact_check(artifact) == TPV_OK && !tpv_deadline_passed(deadline));
    char expected[4200];
    snprintf(expected, sizeof expected,
             "%s: the file was written to since it was opened: an artifact must not change while it is in use; publish "
             "it again",
             path);
    assert_int_equal(tpv_artifact_check(artifact), TPV_ERR_FORMAT);
    assert_string_equal(tpv_error_message(), expected);
    assert_int_equal(tpv_artifact_check_tensor(artifact, tpv_artifact_find(artifact, "a")), TPV_ERR_FORMAT);
    assert_int_equal(tpv_artifact_digest(artifact, 1, NULL, NULL), TPV_ERR_FORMAT);
    assert_string_equal(tpv_error_message(), expected);
    tpv_artifact_close(artifact);
}

/* All that a writer can put back is put back; what is left is the change time. */
static void a_modification_time_put_back_is_noticed(void **state) {
    (void)state;
    const char *path = test_path(folder, "m.safetensors");
    const char *header = "{\"a\":{\"dtype\":\"U8\",\"shape\":[2],\"data_offsets\":[0,2]}}";
    test_safetensors_write(path, header, 2, 1);
    struct stat before;
    assert_int_equal(stat(path, &before), 0);
    const struct timespec times[2] = {before.st_atim, before.st_mtim};
    tpv_artifact_t *artifact = open_path(path);
    assert_int_equal(tpv_artifact_check(artifact), TPV_OK);
    int64_t deadline = tpv_deadline_in(60); /* the clock has a grain here as well */
    do {
        test_file_poke(path, 8 + strlen(header), 77);
        assert_int_equal(utimensat(AT_FDCWD, path, times, 0), 0);
    } while (tpv_artifact_check(artifact) == TPV_OK && !tpv_deadline_passed(deadline));
    struct stat after;
    assert_int_equal(stat(path, &after), 0);
    assert_int_equal(after.st_mtim.tv_nsec, before.st_mtim.tv_nsec);
    assert_int_equal(tpv_artifact_check(artifact), TPV_ERR_FORMAT);
    assert_non_null(strstr(tpv_error_message(), "put back"));
    assert_int_equal(tpv_artifact_digest(artifact, 1, NULL, NULL), TPV_ERR_FORMAT);
    tpv_artifact_close(artifact);
}

/* As by an update that renames a new file over it: the old one cannot change any more. */
static void a_removed_file_is_still_good(void **state) {
    (void)state;
    const char *path = test_path(folder, "m.safetensors");
    test_safetensors_write(path, "{\"a\":{\"dtype\":\"U8\",\"shape\":[2],\"data_offsets\":[0,2]}}", 2, 1);
    tpv_artifact_t *artifact = open_path(path);
    const char *other = test_path(folder, "new.safetensors");
    test_safetensors_write(other, "{\"b\":{\"dtype\":\"U8\",\"shape\":[2],\"data_offsets\":[0,2]}}", 2, 2);
    assert_int_equal(rename(other, path), 0);
    assert_int_equal(tpv_artifact_check(artifact), TPV_OK);
    assert_int_equal(*(const uint8_t *)tpv_artifact_data(artifact, tpv_artifact_find(artifact, "a")), 1 >> 24);
    tpv_artifact_close(artifact);
}

typedef struct {
    const void *source;
    void *destination;
    size_t length;
} copy_t;

static void copy(void *user) {
    copy_t *work = user;
    memcpy(work->destination, work->source, work->length);
}

static void guarded_reads_name_the_file(void **state) {
    (void)state;
    test_safetensors_write(test_path(folder, "1.safetensors"),
                           "{\"a\":{\"dtype\":\"U8\",\"shape\":[262144],\"data_offsets\":[0,262144]}}", 262144, 3);
    test_safetensors_write(test_path(folder, "2.safetensors"),
                           "{\"b\":{\"dtype\":\"U8\",\"shape\":[262144],\"data_offsets\":[0,262144]}}", 262144, 4);
    test_file_write_text(test_path(folder, "model.safetensors.index.json"),
                         "{\"weight_map\":{\"a\":\"1.safetensors\",\"b\":\"2.safetensors\"}}");
    tpv_artifact_t *artifact = open_path(folder);
    void *destination = malloc(262144);
    assert_non_null(destination);
    copy_t work = {tpv_artifact_data(artifact, tpv_artifact_find(artifact, "b")), destination, 262144};
    assert_int_equal(tpv_artifact_guard(artifact, copy, &work), TPV_OK);
    test_file_resize(test_path(folder, "2.safetensors"), 131072);
    assert_int_equal(tpv_artifact_guard(artifact, copy, &work), TPV_ERR_FORMAT);
    char expected[4200];
    snprintf(expected, sizeof expected, "%s/2.safetensors: byte 131072 cannot be read: the file shrank since", folder);
    assert_int_equal(strncmp(tpv_error_message(), expected, strlen(expected)), 0);

    /* Within the last page there is no fault, only zeros: the check finds it. */
    work.source = tpv_artifact_data(artifact, tpv_artifact_find(artifact, "a"));
    test_file_resize(test_path(folder, "1.safetensors"), 262144 + 10);
    assert_int_equal(tpv_artifact_guard(artifact, copy, &work), TPV_OK);
    assert_int_equal(tpv_artifact_check_tensor(artifact, tpv_artifact_find(artifact, "a")), TPV_ERR_FORMAT);
    assert_int_equal(tpv_artifact_check(artifact), TPV_ERR_FORMAT);

    /* A destination that faults is not the artifact's fault. */
    const char *output = test_path(folder, "output.safetensors");
    test_safetensors_write(output, "{\"o\":{\"dtype\":\"U8\",\"shape\":[65536],\"data_offsets\":[0,65536]}}", 65536, 5);
    tpv_artifact_t *other = open_path(output);
    work.source = tpv_artifact_data(other, tpv_artifact_find(other, "o"));
    work.length = 65536;
    test_file_resize(output, 0);
    assert_int_equal(tpv_artifact_guard(artifact, copy, &work), TPV_ERR_SYSTEM);
    assert_non_null(strstr(tpv_error_message(), "outside of the artifact"));
    tpv_artifact_close(other);
    tpv_artifact_close(artifact);
    free(destination);
}

int main(void) {
    /* Nothing is taken from a cache here: the files are too young. */
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(threads_do_not_matter, make_folder, remove_folder),
        cmocka_unit_test_setup_teardown(every_byte_matters_and_only_to_the_id, make_folder, remove_folder),
        cmocka_unit_test_setup_teardown(bytes_that_change_places_change_the_id, make_folder, remove_folder),
        cmocka_unit_test_setup_teardown(files_do_not_matter, make_folder, remove_folder),
        cmocka_unit_test_setup_teardown(progress_reaches_the_end, make_folder, remove_folder),
        cmocka_unit_test_setup_teardown(cancelling_ends_it_early, make_folder, remove_folder),
        cmocka_unit_test_setup_teardown(a_file_truncated_meanwhile_is_an_error, make_folder, remove_folder),
        cmocka_unit_test_setup_teardown(a_modification_time_put_back_is_noticed, make_folder, remove_folder),
        cmocka_unit_test_setup_teardown(a_removed_file_is_still_good, make_folder, remove_folder),
        cmocka_unit_test_setup_teardown(a_file_written_to_meanwhile_is_an_error, make_folder, remove_folder),
        cmocka_unit_test_setup_teardown(guarded_reads_name_the_file, make_folder, remove_folder),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
