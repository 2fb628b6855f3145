class Stacker: pass
