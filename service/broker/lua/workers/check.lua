-- ARGV: model, input_digest
-- include: other_model.lua

return other_model({model = model, input_digest = cjson.decode(input_digest)})
