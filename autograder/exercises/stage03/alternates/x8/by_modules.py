"""The audit module by module, with a set of what has been counted; lists in place of tuples."""


def audit(model):
    order = ["embeddings", "attention", "feed-forward", "norms", "head", "LoRA"]
    result, counted = {part: [0, 0] for part in order}, set()
    for path, module in model.named_modules():
        for last, parameter in module.named_parameters(recurse=False):
            if id(parameter) in counted:
                continue
            counted.add(id(parameter))
            words = {*path.split("."), last}
            if [word for word in words if word[:5] == "lora_"]:
                part = "LoRA"
            elif "classifier" in words:
                part = "head"
            elif "embeddings" in words:
                part = "embeddings"
            elif "LayerNorm" in words:
                part = "norms"
            else:
                part = "attention" if "attention" in words else "feed-forward"
            result[part][1 if parameter.requires_grad else 0] += parameter.nelement()
    return result
