package sub

func NoComment() {}
