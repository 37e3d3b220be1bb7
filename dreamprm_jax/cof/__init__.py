"""Chain-of-Function: prompts, code extraction, and the splitter that cuts a program into function steps."""
