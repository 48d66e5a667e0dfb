/* The header that turns the dense form into a safetensors file (https://github.com/huggingface/safetensors, README
 * "Format"): offsets are those of the dense form, which has no gaps and goes in the order of the outputs. */
#include <stdlib.h>
#include <string.h>

#include "base/error.h"
#include "view/json_write.h"
#include "view/view.h"

#define DATA_ALIGNMENT 64
#define ALIASES_KEY "tpview.aliases"
/* MAX_HEADER_SIZE in safetensors/src/tensor.rs, version 0.8.0. */
#define MAX_HEADER_BYTES 100000000u

static void write_aliases(FILE *stream, const tpv_view_t *view) {
    fputc('{', stream);
    for (size_t i = 0; i < view->alias_count; i++) {
        if (i) fputc(',', stream);
        tpv_json_write_string(stream, view->aliases[i].name);
        fputc(':', stream);
        tpv_json_write_string(stream, view->aliases[i].target);
    }
    fputc('}', stream);
}

/* Values of __metadata__ can only be strings, so the aliases are an object in a string. */
static tpv_status_t write_metadata(FILE *stream, const tpv_view_t *view, const char *metadata) {
    bool any = false;
    for (const char *key = metadata; key && *key;) {
        const char *value = key + strlen(key) + 1;
        fputs(any ? "," : "\"__metadata__\":{", stream);
        any = true;
        tpv_json_write_string(stream, key);
        fputc(':', stream);
        tpv_json_write_string(stream, value);
        key = value + strlen(value) + 1;
    }
    if (view->alias_count > 0) {
        char *text = NULL;
        size_t length;
        FILE *aliases = open_memstream(&text, &length);
        if (!aliases) return TPV_ERR_NO_MEMORY;
        write_aliases(aliases, view);
        bool failed = ferror(aliases);
        if (fclose(aliases) != 0 || failed) {
            free(text);
            return TPV_ERR_NO_MEMORY;
        }
        fputs(any ? "," : "\"__metadata__\":{", stream);
        any = true;
        fputs("\"" ALIASES_KEY "\":", stream);
        tpv_json_write_string(stream, text);
        free(text);
    }
    if (any) fputs(view->output_count ? "}," : "}", stream);
    return TPV_OK;
}

static void write_output(FILE *stream, const tpv_output_t *output) {
    tpv_json_write_string(stream, output->name);
    fprintf(stream, ":{\"dtype\":\"%s\",\"shape\":[", tpv_dtype_name(output->dtype));
    for (uint32_t i = 0; i < output->dims; i++)
        fprintf(stream, i ? ",%llu" : "%llu", (unsigned long long)output->shape[i]);
    fprintf(stream, "],\"data_offsets\":[%llu,%llu]}", (unsigned long long)output->offset,
            (unsigned long long)(output->offset + output->bytes));
}

tpv_status_t tpv_view_safetensors_header(const tpv_view_t *view, const char *metadata, void **header,
                                         size_t *header_bytes) {
    *header = NULL;
    char *text = NULL;
    size_t length = 0;
    FILE *stream = open_memstream(&text, &length);
    if (!stream) return tpv_error_set(TPV_ERR_NO_MEMORY, "no memory for a safetensors header");
    for (int i = 0; i < 8; i++)
        fputc(0, stream); /* the length, filled in below */
    fputc('{', stream);
    tpv_status_t status = write_metadata(stream, view, metadata);
    for (size_t i = 0; i < view->output_count; i++) {
        if (i) fputc(',', stream);
        write_output(stream, &view->outputs[i]);
    }
    fputc('}', stream);
    for (long at = ftell(stream); at > 0 && at % DATA_ALIGNMENT != 0; at++)
        fputc(' ', stream);
    if (ferror(stream)) status = TPV_ERR_NO_MEMORY;
    if (fclose(stream) != 0) status = TPV_ERR_NO_MEMORY;
    if (status != TPV_OK) {
        free(text);
        return tpv_error_set(status, "no memory for a safetensors header");
    }
    if (length - 8 > MAX_HEADER_BYTES) {
        free(text);
        return tpv_error_set(TPV_ERR_UNSUPPORTED,
                             "the safetensors header of %zu outputs has %zu bytes: readers take "
                             "at most %u",
                             view->output_count, length - 8, MAX_HEADER_BYTES);
    }
    for (int i = 0; i < 8; i++)
        text[i] = (char)((uint64_t)(length - 8) >> (8 * i));
    *header = text;
    *header_bytes = length;
    return TPV_OK;
}
