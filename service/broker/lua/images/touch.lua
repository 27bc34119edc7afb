-- ARGV: refs

touch_images(refs)
