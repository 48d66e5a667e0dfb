#include "view/quant_module.h"

#include <stdio.h>
#include <string.h>

#include "artifact/artifact.h"

#define MAX_STEPS 64u /* tensors and modules looked at below a module's name */

/*
 * Last parts of names by what they say of the weight. Names are those of:
 *   compressed-tensors (compressors and quantization/lifecycle/initialize.py, 0.12), also for NVFP4 and MXFP4
 *   transformers' FP8 (integrations/finegrained_fp8.py, 5.24), FBGEMM and bitsandbytes
 *   GPTQ and AWQ (GPTQModel's BaseQuantLinear, AutoAWQ's WQLinear_GEMM)
 *   ModelOpt (torch/export/quant_utils.py, 0.37), also for k_scale and v_scale
 *   GGUF as vLLM keeps it (layers/quantization/gguf.py)
 */
static const struct {
    const char *part;
    tpv_parameter_kind_t kind;
} parts[] = {
    {"weight", TPV_PARAMETER_CODES},
    {"weight_packed", TPV_PARAMETER_CODES},
    {"qweight", TPV_PARAMETER_CODES},
    {"bias", TPV_PARAMETER_ROWS},
    {"weight_scale", TPV_PARAMETER_GRID},
    {"weight_scale_inv", TPV_PARAMETER_GRID},
    {"scale", TPV_PARAMETER_GRID}, /* DeepSeek's own names */
    {"weight_zero_point", TPV_PARAMETER_GRID},
    {"scales", TPV_PARAMETER_GRID},
    {"qzeros", TPV_PARAMETER_GRID},
    {"g_idx", TPV_PARAMETER_ORDER},
    {"weight_g_idx", TPV_PARAMETER_ORDER},
    {"weight_shape", TPV_PARAMETER_SHAPE},
    {"pre_quant_scale", TPV_PARAMETER_COLUMNS},
    {"k_scale", TPV_PARAMETER_HEADS},
    {"v_scale", TPV_PARAMETER_HEADS},
    {"q_scale", TPV_PARAMETER_HEADS},
    {"output_scale", TPV_PARAMETER_HEADS},
    {"weight_scale_2", TPV_PARAMETER_ONE},
    {"weight_global_scale", TPV_PARAMETER_ONE},
    {"input_scale", TPV_PARAMETER_ONE},
    {"input_scale_inv", TPV_PARAMETER_ONE},
    {"input_scale_ub", TPV_PARAMETER_ONE},
    {"input_global_scale", TPV_PARAMETER_ONE},
    {"input_zero_point", TPV_PARAMETER_ONE},
    {"output_zero_point", TPV_PARAMETER_ONE},
    {"activation_scale", TPV_PARAMETER_ONE},
    {"qweight_type", TPV_PARAMETER_ONE},
    {"SCB", TPV_PARAMETER_OPAQUE},
    {"weight_format", TPV_PARAMETER_OPAQUE},
};
/* The same of stacks of experts, behind an underscore. "" is the stack's own name. */
static const struct {
    const char *part;
    tpv_parameter_kind_t kind;
} stack_parts[] = {
    {"", TPV_PARAMETER_CODES},
    {"blocks", TPV_PARAMETER_CODES}, /* MXFP4 of gpt_oss: integrations/mxfp4.py in transformers 5.24 */
    {"scales", TPV_PARAMETER_GRID},
    {"bias", TPV_PARAMETER_ROWS},
    {"scale", TPV_PARAMETER_GRID},
    {"scale_inv", TPV_PARAMETER_GRID}, /* FP8Experts in integrations/finegrained_fp8.py */
    {"weight_scale", TPV_PARAMETER_GRID},
    {"weight_scale_inv", TPV_PARAMETER_GRID},
    {"weight_scale_2", TPV_PARAMETER_ONE},
    {"input_scale", TPV_PARAMETER_ONE},
    {"activation_scale", TPV_PARAMETER_ONE},
};
#define COUNT(list) (sizeof(list) / sizeof *(list))

int tpv_module_rows(const tpv_module_t *module) {
    return module->weight.dims < 2 ? 0 : (int)module->weight.dims - 2;
}

int tpv_module_columns(const tpv_module_t *module) {
    return module->weight.dims < 1 ? 0 : (int)module->weight.dims - 1;
}

size_t tpv_module_length(const char *tensor) {
    const char *weight = strstr(tensor, ".weight.");
    const char *dot = weight ? weight : strrchr(tensor, '.');
    return dot ? (size_t)(dot - tensor) : 0;
}

/* Is there a tensor of that stack and part? */
static const tpv_tensor_t *stack_part(const tpv_artifact_t *artifact, const char *tensor, size_t length,
                                      const char *part) {
    char name[TPV_MAX_NAME + 32];
    snprintf(name, sizeof name, "%.*s%s%s", (int)length, tensor, *part ? "_" : "", part);
    return tpv_artifact_find(artifact, name);
}

static bool is_quantised_stack(const tpv_artifact_t *artifact, const char *tensor, size_t length) {
    for (size_t i = 0; i < COUNT(stack_parts); i++) {
        if (stack_parts[i].kind != TPV_PARAMETER_GRID) continue;
        if (!stack_part(artifact, tensor, length, stack_parts[i].part)) continue;
        return stack_part(artifact, tensor, length, "") || stack_part(artifact, tensor, length, "blocks");
    }
    return false;
}

bool tpv_stack_length(const tpv_artifact_t *artifact, const char *tensor, size_t *length) {
    size_t module = tpv_module_length(tensor), all = strlen(tensor);
    const char *last = module > 0 ? tensor + module + 1 : tensor;
    if (strncmp(last, "weight", 6) == 0) return false; /* NAME.weight and NAME.weight_scale are no stack */
    for (size_t i = 0; i < COUNT(stack_parts); i++) {
        size_t part = strlen(stack_parts[i].part), tail = part > 0 ? part + 1 : 0;
        if (tail >= strlen(last) || (tail > 0 && tensor[all - tail] != '_') ||
            strcmp(tensor + all - part, stack_parts[i].part) != 0)
            continue;
        if (!is_quantised_stack(artifact, tensor, all - tail)) continue;
        *length = all - tail;
        return true;
    }
    return false;
}

static tpv_parameter_kind_t kind_of(const char *part) {
    for (size_t i = 0; i < COUNT(parts); i++)
        if (strcmp(parts[i].part, part) == 0) return parts[i].kind;
    return strncmp(part, "weight.", 7) == 0 ? TPV_PARAMETER_OPAQUE : TPV_PARAMETER_OTHER;
}

static bool add(tpv_module_t *module, const tpv_tensor_t *tensor, tpv_parameter_kind_t kind) {
    if (module->count == TPV_MAX_PARAMETERS) return false;
    tpv_parameter_t *parameter = &module->parameter[module->count++];
    *parameter = (tpv_parameter_t){.tensor = tensor, .kind = kind};
    for (int i = 0; i < TPV_MAX_DIMS; i++)
        parameter->along[i].axis = -1;
    return true;
}

/* A scale beside a weight makes it quantised; without a weight, some other modules have one as well. */
static bool is_quantised(tpv_module_t *module) {
    bool codes = tpv_module_part(module, "weight") != NULL;
    if (module->stack || tpv_module_part(module, "weight_packed") || tpv_module_part(module, "qweight")) return true;
    for (uint32_t i = 0; i < module->count; i++) {
        tpv_parameter_kind_t kind = module->parameter[i].kind;
        if (kind == TPV_PARAMETER_CODES || kind == TPV_PARAMETER_ROWS || kind == TPV_PARAMETER_OTHER) continue;
        if (codes) return true;
        if (kind == TPV_PARAMETER_HEADS || kind == TPV_PARAMETER_ONE || kind == TPV_PARAMETER_COLUMNS) continue;
        if (&module->parameter[i] != tpv_module_part(module, "scale")) return true;
    }
    return false;
}

/* Tensors right below the module's name, without those of modules inside of it. */
static bool collect(const tpv_artifact_t *artifact, const char *tensor, size_t length, tpv_module_t *module) {
    char start[TPV_MAX_NAME + 2];
    size_t count = tpv_artifact_tensor_count(artifact);
    snprintf(start, sizeof start, "%.*s.", (int)length, tensor);
    size_t at = tpv_artifact_seek(artifact, start, length + 1);
    for (unsigned step = 0; at < count; step++) {
        const tpv_tensor_t *found = tpv_artifact_tensor(artifact, at);
        if (strncmp(found->name, start, length + 1) != 0) return true;
        if (step == MAX_STEPS) return false;
        size_t inner = tpv_module_length(found->name);
        if (inner == length) {
            if (!add(module, found, kind_of(found->name + length + 1))) return false;
            at++;
            continue;
        }
        /* Behind a module's dot comes nothing that is below '/'. */
        char next[TPV_MAX_NAME + 2];
        const char *dot = strchr(found->name + length + 1, '.');
        size_t skip = (size_t)(dot - found->name);
        snprintf(next, sizeof next, "%.*s/", (int)skip, found->name);
        at = tpv_artifact_seek(artifact, next, skip + 1);
    }
    return true;
}

void tpv_module_of(const tpv_artifact_t *artifact, const tpv_quant_config_t *quant, const char *tensor,
                   tpv_module_t *module) {
    size_t length;
    *module = (tpv_module_t){0};
    module->stack = tpv_stack_length(artifact, tensor, &length);
    if (!module->stack) length = tpv_module_length(tensor);
    snprintf(module->name, sizeof module->name, "%.*s", (int)length, tensor);
    snprintf(module->weight_name, sizeof module->weight_name, "%s%s", module->name, module->stack ? "" : ".weight");
    module->weight.name = module->weight_name;
    if (length == 0) return;
    bool all = true;
    for (size_t i = 0; module->stack && i < COUNT(stack_parts); i++) {
        const tpv_tensor_t *found = stack_part(artifact, tensor, length, stack_parts[i].part);
        if (found) all = add(module, found, stack_parts[i].kind) && all;
    }
    if (!module->stack) all = collect(artifact, tensor, length, module);
    module->quantised = is_quantised(module);
    if (!module->quantised) return;
    if (!all)
        snprintf(module->reason, sizeof module->reason, "%s has more than %u parameters", module->name,
                 TPV_MAX_PARAMETERS);
    else
        tpv_module_lay_out(quant, module);
}

const tpv_parameter_t *tpv_module_find(const tpv_module_t *module, const char *tensor) {
    for (uint32_t i = 0; i < module->count; i++)
        if (strcmp(module->parameter[i].tensor->name, tensor) == 0) return &module->parameter[i];
    return NULL;
}

tpv_parameter_t *tpv_module_part(tpv_module_t *module, const char *part) {
    size_t length = strlen(module->name);
    for (uint32_t i = 0; i < module->count; i++) {
        const char *rest = module->parameter[i].tensor->name + length;
        if (*part == '\0' ? *rest == '\0' : *rest != '\0' && strcmp(rest + 1, part) == 0) return &module->parameter[i];
    }
    return NULL;
}
