#include "tools/common/plan_option.h"

#include <stdlib.h>
#include <string.h>

#include "artifact/json.h"
#include "base/error.h"
#include "base/small_file.h"

#define PLAN_MAX ((size_t)64 << 20)
#define TRANSFORMERS "hf:"

static bool is_transformers(const char *option) {
    return strncmp(option, TRANSFORMERS, strlen(TRANSFORMERS)) == 0;
}

const char *tpv_cli_plan_path(const char *option) {
    return is_transformers(option) ? option + strlen(TRANSFORMERS) : option;
}

static tpv_status_t wrap(const char *plan, size_t plan_length, char **text) {
    json_t *rules = NULL;
    TPV_TRY(tpv_json_parse((tpv_json_text_t){plan, plan_length}, PLAN_MAX, &rules));
    json_t *file = json_pack("{s:s, s:o}", "format", "tpview-plan-1", "transformers_tp_plan", rules);
    *text = file ? json_dumps(file, JSON_COMPACT) : NULL;
    json_decref(file);
    return *text ? TPV_OK : tpv_error_set(TPV_ERR_NO_MEMORY, "no memory for a plan");
}

tpv_status_t tpv_cli_read_plan(const char *option, char **text, size_t *length) {
    const char *path = tpv_cli_plan_path(option);
    TPV_TRY(tpv_small_file_read(path, PLAN_MAX, false, text, length));
    if (!is_transformers(option)) return TPV_OK;
    char *plan = *text;
    *text = NULL;
    tpv_status_t status = wrap(plan, *length, text);
    free(plan);
    if (status != TPV_OK) return tpv_error_prefix(status, "%s", path);
    *length = strlen(*text);
    return TPV_OK;
}
